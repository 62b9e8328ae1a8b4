"""Networks behind the web page."""

import importlib.util
import ipaddress
import os
import resource
import socket
import stat
from pathlib import Path

import numpy as np
import torch

from core.checks import NotFinite, require_finite
from core.files import printable, read_small, sha256_of
from core.progress import say
from core.system.device import (
    autocast,
    choose_device,
    prepare_device,
    resolve_precision,
    return_freed_memory,
)
from data.reading.radiograph import load_radiograph
from data.reading.refusal import REASONS, UnreadableRadiograph
from data.views.intensity import minmax
from data.views.preprocessing import Preprocessing
from evaluation.maps.error_maps import (
    complementary_passes,
    describe,
    error_maps,
    mask_generator,
    visible_patches,
)
from evaluation.statistics.likeness import Joint, Likeness
from evaluation.statistics.novelty import look
from models.backbones.finetuned import fold_folders, load_finetuned, network_name
from models.networks.mae import visible_count
from models.weights.checkpoint import load_mae
from training.kept_facts import counted_radiographs, doubt, network_sentences, read_facts
from workflows.regions.answers.group_calibration import (
    calibration_sizes,
    kept_temperatures,
    with_temperatures,
)
from workflows.regions.answers.proposals import map_boxes
from workflows.regions.records.views import around_boxes, sliding_regions
from workflows.regions.web.case import make_case
from workflows.regions.web.case_page import case_html
from workflows.regions.web.map_page import make_map_case, map_html
from workflows.regions.web.server import Refused

SHORTEST_PASSWORD = 8


def serve(config) -> int:
    """Serve until Ctrl-C or SIGTERM; 0 then."""
    from workflows.regions.web.server import MAP_TITLE, TITLE, Settings, bind, build_app, serve

    users = check(config)
    forbid_core_dumps()
    shown = f"[{config.host}]" if ":" in config.host else config.host
    with bind(
        config.host, config.port
    ) as listener:  # a port that is taken is told before networks are loaded
        guided = bool(config.model_path)
        settings = Settings(
            users,
            host_names(config),
            int(config.max_mb * 2**20),
            int(config.total_mb * 2**20),
            TITLE if guided else MAP_TITLE,
            guided,
        )
        app = build_app(build_reader(config), settings)
        serve(app, listener, lambda: say(f"http://{shown}:{config.port}  (Ctrl-C ends it)"))
    return 0


def build_reader(config):
    """A function from a file to the HTML of its result."""
    networks = Networks(config) if config.model_path else ErrorMaps(config)
    show = case_html if config.model_path else map_html
    return_freed_memory()  # a server must not keep the memory of its largest radiograph
    return lambda path: show(networks.analyse(path))


def forbid_core_dumps() -> None:
    """A crash must not write the memory of this process, with its radiographs, to a disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def check(config) -> dict[str, str]:
    """Refuse what cannot work or would be open to others; returns user -> password."""
    if not config.model_path and config.mae_path is None:
        raise ValueError(
            "give --model_path (what train_region_guided.py writes, OUTPUT/models/foldK), --mae_path (a "
            "masked autoencoder), or both"
        )
    for name, fine in (
        ("port", 0 < config.port < 65536),
        ("max_mb", 0 < config.max_mb <= 4096),
        ("total_mb", config.max_mb <= config.total_mb <= 65536),
        ("passes", 1 <= config.passes <= 1000),
    ):
        if not fine:
            least = f"; it must be at least --max_mb {config.max_mb}" if name == "total_mb" else ""
            raise ValueError(f"--{name} {getattr(config, name)} is out of range{least}")
    if config.regions is not None and not config.model_path:
        raise ValueError(f"--regions {config.regions} needs a region-guided network: --model_path")
    if config.regions == "map" and config.mae_path is None:
        raise ValueError("--regions map needs a masked autoencoder: --mae_path")
    config.regions = config.regions or ("windows" if config.mae_path is None else "map")
    users = read_users(config.auth)
    if not (is_local(config.host) or users):
        raise ValueError(
            f"--host {config.host} is open to other machines: give --auth FILE or APP_AUTH=USER:PASSWORD"
        )
    for name in config.names:
        if not name or set(name) & set("/:@ []*"):
            raise ValueError(
                f"--names {name!r}: expected host names such as reader.example.org, without port"
            )
    for module in ("starlette", "uvicorn", "jinja2"):
        if importlib.util.find_spec(module) is None:
            raise ValueError(f"{module} is not installed: pip install -r requirements-app.txt")
    return users


def is_local(host: str) -> bool:
    """Whether an address is of this machine alone. ValueError if it is no address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise ValueError(
            f"--host {host!r}: expected an address such as 127.0.0.1 or 0.0.0.0"
        ) from None


def host_names(config) -> list[str]:
    """Names that the page is served under, besides those of the loopback interface and the address connected to."""
    return [*config.names, *([] if is_local(config.host) else [socket.gethostname()])]


def read_users(file: Path | None) -> dict[str, str]:
    """User -> password out of a file of lines USER:PASSWORD, or of APP_AUTH; {} without both.

    A password on the command line would be seen by everyone who lists the processes of this machine.
    """
    if file is None:
        # children and error reports do not get it
        lines = [os.environ.pop("APP_AUTH", "")]
        where = "APP_AUTH"
        if not lines[0]:
            return {}
    else:
        if not file.is_file():
            raise FileNotFoundError(
                "--auth: no such file; it takes a file of lines USER:PASSWORD, never a password"
            )
        if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ValueError(f"{file}: others than its owner can read it; chmod 600 {file}")
        lines = read_small(file).splitlines()
        where = str(file)
    users: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        user, colon, password = line.strip().partition(":")
        if not (user and colon) or len(password) < SHORTEST_PASSWORD or user in users:
            raise ValueError(
                f"{where}: line {number}: expected USER:PASSWORD, each user once, with at least "
                f"{SHORTEST_PASSWORD} characters of password"
            )
        users[user] = password
    if not users:
        raise ValueError(f"{where}: no line USER:PASSWORD")
    return users


class Networks:
    """Classifiers and, where there is one, the masked autoencoder; `analyse` is all that the page asks for."""

    def __init__(self, config):

        self.config = config
        self.device = choose_device(config.device)
        self.precision = resolve_precision(config.precision, self.device)
        prepare_device(self.device)
        self.classifiers = []
        self.facts = {"networks": [], "precision": self.precision}
        told = "train_region_guided.py makes one; scripts/app.py begins with the commands, for phantoms too"
        try:
            folders = [fold for path in config.model_path for fold in fold_folders(path)]
        except FileNotFoundError as error:
            raise FileNotFoundError(f"--model_path {error}; {told}") from None
        likeness = []
        trained = []
        sizes = []
        name = ""
        for folder in folders:
            try:
                loaded = load_finetuned(folder, "region-guided")
                temperatures = kept_temperatures(loaded.about)
                sizes.append(calibration_sizes(loaded.about))
                likeness.append(Likeness.of_folder(folder, loaded.model.width))
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{error}; {told}") from None
            except ValueError as error:
                why = str(error)
                raise ValueError(
                    why if str(folder) in why else f"{printable(folder)}: {why}"
                ) from None
            preprocessing = Preprocessing.from_dict(loaded.preprocessor)
            loaded.model.backbone.check_size(
                (preprocessing.height, preprocessing.width), printable(folder)
            )
            loaded.model.normalise = preprocessing.normalise
            self.classifiers.append((loaded.model.to(self.device), preprocessing, temperatures))
            trained.append(read_facts(loaded.about))
            name = name or network_name(
                "region-guided classifier", loaded.model.backbone, loaded.about
            )
            self.facts["networks"].append(
                {
                    "sha256": sha256_of(folder / "model.safetensors"),
                    "trained on": trained[-1].trained_on,
                    "validation score": trained[-1].rows["validation score"],
                }
            )
        self.mae = None
        if config.mae_path is not None:
            self.mae = self.load_autoencoder(config.mae_path)
        shared = set.intersection(*(set(temperatures) for _, _, temperatures in self.classifiers))
        self.temperatures = {  # shown; each network is scaled by its own
            name: sum(own[name] for _, _, own in self.classifiers) / len(self.classifiers)
            for name in sorted(shared)
        }
        known = {part for part in shared if all(part in own for own in sizes)}
        self.calibrated_on = {
            part: counted_radiographs(
                (min(own[part] for own in sizes), max(own[part] for own in sizes))
                if part in known
                else 0,
                trained[0].data,
            )
            for part in shared
        }
        self.likeness = Joint(likeness)
        several = f"the mean of {len(trained)} networks: " if len(trained) > 1 else ""
        self.doubt = doubt(trained)
        self.told = [*network_sentences(f"{several}{name}", trained), self.likeness.note]

    def load_autoencoder(self, path: Path):
        """(network, preprocessing)"""
        loaded = load_mae(path, weights=self.config.weights)
        preprocessing = Preprocessing.of(loaded.preprocessor, loaded.model.input_size)
        if (preprocessing.height, preprocessing.width) != tuple(loaded.model.input_size):
            raise ValueError(f"{path}: prepares radiographs at another size than its network takes")
        return loaded.model.to(self.device), preprocessing

    def analyse(self, path: Path):
        """A `Case` of one file. Refused says why there is none, without the name of the file."""
        try:
            return self.read_and_look(path)
        except NotFinite as error:
            raise Refused(f"No result: {error}.", 500) from error
        except UnreadableRadiograph as error:
            why = REASONS.get(error.reason, error.reason)
            detail = f" ({error.detail})" if error.detail and error.detail not in why else ""
            raise Refused(f"This file cannot be used as a radiograph: {why}{detail}.") from error

    def read_and_look(self, path: Path):
        """`analyse`, but for UnreadableRadiograph."""
        pixels = load_radiograph(path)
        found = None
        regions = []
        source = "none"
        if self.mae is not None:
            found = self.error_map(path, pixels)
        if self.config.regions == "windows":
            regions = sliding_regions(pixels.shape)
            source = "windows"
        elif self.config.regions == "map":
            error_map, hits, preprocessing = found
            boxes = map_boxes(error_map, hits, preprocessing.placement(pixels.shape)[1])
            height, width = pixels.shape
            moved = preprocessing.back_boxes(np.array(boxes).reshape(-1, 4), pixels.shape)
            moved = np.clip(moved, 0, [width, height, width, height])
            regions = around_boxes(moved.tolist(), pixels.shape, "peak")
            source = "error map"
        views, likeness = self.look(path, pixels, [region.crop for region in regions])
        back = (
            None
            if found is None
            else lambda size: found[2].map_back(known_errors(*found[:2]), size)
        )
        named = [(region.name, region.box) for region in regions]
        facts = self.facts | {
            "regions": source,
            "like training": self.likeness.word(likeness),
            "likeness": likeness if self.likeness.known else None,
        }
        return make_case(
            minmax(pixels),
            named,
            views,
            self.temperatures,
            back,
            rule=self.config.rule,
            facts=facts,
            calibrated_on=self.calibrated_on,
            told=self.told,
            warning="; ".join(filter(None, [self.likeness.sentence(likeness), self.doubt])),
            unlike=self.likeness.is_unlike(likeness),
        )

    def look(self, path: Path, pixels, crops: list):
        """(probabilities [V, L] of the whole and of `crops`: each network after its temperatures, then their mean; how
        like the training radiographs the whole is)."""
        answers = []
        features = []
        looks = []
        for model, preprocessing, temperatures in self.classifiers:
            scaled = self.scaled(path, pixels, preprocessing)
            parts = []
            images = [preprocessing.fit(scaled)]
            images += [
                preprocessing.fit(np.ascontiguousarray(scaled[y0:y1, x0:x1]))
                for x0, y0, x1, y1 in crops
            ]
            with torch.inference_mode(), autocast(self.device, self.precision):
                for start in range(0, len(images), 8):
                    batch = torch.stack(images[start : start + 8]).to(self.device)
                    parts.append(model.predict(batch).double().cpu().numpy())
                features.append(
                    model.features(images[0][None].to(self.device)).float().cpu().numpy()
                )
            looks.append(look(images[0][0].numpy())[None])
            answers.append(with_temperatures(np.concatenate(parts), temperatures))
        probabilities = np.mean(answers, axis=0)
        require_finite(probabilities, "probabilities of the classifier")
        return probabilities, float(self.likeness.of(features, looks)[0])

    def error_map(self, path: Path, pixels):
        """(map [h, w], hits [rows, columns], preprocessing); the same pixels give the same map."""
        model, preprocessing = self.mae
        batch = preprocessing.normalise(
            preprocessing.fit(self.scaled(path, pixels, preprocessing))[None]
        )
        patches = model.grid[0] * model.grid[1]
        visible = visible_count(patches, model.mask_ratio)
        passes = complementary_passes(self.config.passes, patches, visible)
        masks = visible_patches(
            passes, model.grid, visible, mask_generator(0, "page"), "complementary"
        )
        with autocast(self.device, self.precision):
            found = error_maps(
                model,
                batch.to(self.device),
                masks[None],
                mean=preprocessing.mean,
                std=preprocessing.std,
                batch_size=8,
            )
        return found.maps[0], found.hits[0], preprocessing

    def scaled(self, path: Path, pixels, preprocessing):
        """Pixels as a network's preprocessing scales them, refused where there is no contrast."""
        try:
            return preprocessing.scale(pixels)
        except ValueError as error:
            raise UnreadableRadiograph(path, "constant", str(error)) from error


class ErrorMaps(Networks):
    """A masked autoencoder alone: `analyse` gives the `MapCase` of a file."""

    def __init__(self, config):

        self.config = config
        self.device = choose_device(config.device)
        self.precision = resolve_precision(config.precision, self.device)
        prepare_device(self.device)
        self.mae = self.load_autoencoder(config.mae_path)
        weights = (
            config.mae_path / "model.safetensors" if config.mae_path.is_dir() else config.mae_path
        )
        self.facts = {
            "passes": config.passes,
            "masks": "complementary",
            "precision": self.precision,
        }
        if weights.is_file():
            self.facts["networks"] = [{"sha256": sha256_of(weights)}]

    def read_and_look(self, path: Path):
        """`analyse`, but for UnreadableRadiograph."""
        pixels = load_radiograph(path)
        error_map, hits, preprocessing = self.error_map(path, pixels)
        known = known_errors(error_map, hits)
        numbers = describe(error_map, hits, preprocessing.placement(pixels.shape)[1])
        return make_map_case(
            minmax(pixels), lambda size: preprocessing.map_back(known, size), numbers, self.facts
        )


def known_errors(error_map, hits):
    """The map [h, w] with NaN for patches that were never hidden."""
    side = error_map.shape[0] // hits.shape[0]
    return np.where(np.kron(hits > 0, np.ones((side, side), bool)), error_map, np.nan)

"""Attention maps of folders of radiographs."""

import os
from dataclasses import asdict
from pathlib import Path, PurePath

import numpy as np
import torch
from torch import nn

from core.checks import require_finite
from core.files import check_folder, make_folder, printable
from core.output_folder import folder_labels, output_stems
from core.progress import bar, say
from core.system.device import choose_device, prepare_device
from core.tables import write_table
from data.reading.radiograph import list_radiographs, passed_over_message
from data.reading.refusal import UnreadableRadiograph
from data.views.preprocessing import Preprocessing
from evaluation.pages.html import Card, Report, thumbnail, write_report
from evaluation.pages.pictures import resized
from evaluation.statistics.likeness import Joint, Likeness
from evaluation.statistics.novelty import look
from models.backbones.backbone import build_backbone
from models.backbones.finetuned import load_finetuned, network_name
from models.networks.attention_maps import attention_maps, last_layer
from models.networks.grad_cam import grad_cam, last_map, likeness, own_features
from models.weights.checkpoint import read_json
from training.kept_facts import network_sentences, read_facts
from workflows.heatmaps.attention_figures import ENDINGS, focus, write_pictures

LEAD = (
    "Where the network looks, on the radiograph's own geometry. A map shows what moves a number inside the network; it "
    "finds nothing, and a bright place is no sign of disease. Colours of different radiographs cannot be compared. "
    "Focus: the share of the map in its highest tenth of places (0.1: even). Not for diagnosis."
)


def draw_attention(config) -> int:
    """Look, draw, report; 3 if a radiograph could not be read, else 0."""
    check(config)

    device = choose_device(config.device)
    prepare_device(device)
    sources = find_sources(config)
    looker = Looker(config, device)
    say(looker.report)
    for sentence in looker.told:
        say(sentence)
    make_folder(config.out)
    rows = []
    cards = []
    failed = []
    for stem, path, scaled, maps, told, alike in looked(config, looker, sources, failed):
        row, card = drawn(
            config, looker, stem, path, scaled, maps, told, alike, len(rows), len(sources)
        )
        rows.append(row)
        cards.append(card)
    write_results(config, looker, rows, cards, failed)
    say(f"{len(rows)} radiographs; open {config.out / 'index.html'}")
    if failed:
        say(f"{len(failed)} could not be read, see {config.out / 'failed.csv'}")
    return 3 if failed else 0


def check(config) -> None:
    """Refuse what could only fail later."""
    check_folder(config.out)
    if config.out.exists() and any(config.out.iterdir()) and not config.overwrite:
        raise FileExistsError(
            f"--out {config.out}: holds files; --overwrite replaces those of the same names"
        )
    if not 0 <= config.alpha <= 1:
        raise ValueError(f"--alpha {config.alpha}: expected a number from 0 to 1")
    if config.batch_size < 1:
        raise ValueError(f"--batch_size {config.batch_size}: expected at least 1")
    if len(config.input_size) > 2 or any(side < 1 for side in config.input_size):
        raise ValueError(
            f"--input_size {' '.join(map(str, config.input_size))}: expected 1 or 2 numbers of pixels"
        )
    if config.kind == "attention" and (config.label or config.like):
        raise ValueError(
            "--label and --like are for --kind gradcam: attention does not depend on an answer"
        )
    if config.label and config.like:
        raise ValueError("--label and --like exclude each other")


def find_sources(config) -> list[tuple[PurePath, Path]]:
    """(where its outputs go, file) of every radiograph once; names never collide."""
    listed: dict[str, tuple[Path, Path]] = {}  # real path -> (root, path)
    passed_over = {}
    for entry in config.in_dirs:
        for path in list_radiographs([entry], recursive=config.recursive, passed_over=passed_over):
            listed.setdefault(
                os.path.realpath(path), (entry if entry.is_dir() else path.parent, path)
            )
    if message := passed_over_message(passed_over, exclude=config.out):
        say(message)
    labels = folder_labels(list(dict.fromkeys(root for root, _ in listed.values())))
    places = [PurePath(labels[root]) / path.relative_to(root) for root, path in listed.values()]
    return list(zip(output_stems(places, ENDINGS), (path for _, path in listed.values())))


class Looker:
    """The network, how radiographs are prepared for it, and what its maps show."""

    def __init__(self, config, device):

        self.config = config
        self.device = device
        self.head = None
        self.about = {}
        # of a fine-tuned network
        self.likeness = None
        self.told = []
        folder = Path(config.model_path)
        size = tuple(config.input_size * 2)[:2] or None
        if is_finetuned(folder):
            if size:
                raise ValueError(f"--input_size: {folder} was fine-tuned at its own size")
            found = load_finetuned(folder)
            self.backbone = found.model.backbone
            self.head = found.model
            self.about = found.about
            known = found.preprocessor
            self.report = f"{folder}: fine-tuned"
            self.likeness = Joint([Likeness.of_folder(folder, self.head.width)])
            sentences = network_sentences(
                network_name("fine-tuned", self.backbone, self.about), [read_facts(self.about)]
            )
            self.told = [*sentences, self.likeness.note]
        else:
            self.backbone = build_backbone(
                config.model_path, input_size=size, weights=config.weights
            )
            known = self.backbone.preprocessing
            self.report = self.backbone.report
        self.preprocessing = Preprocessing.of(known, self.backbone.input_size)
        self.backbone.check_size(
            (self.preprocessing.height, self.preprocessing.width), config.model_path
        )
        if not known:
            say(
                "note: the checkpoint does not say how its radiographs were prepared; this is assumed: "
                f"{self.preprocessing.describe()}"
            )
        self.backbone.eval().to(device)
        self.transformer = hasattr(self.backbone.network, "blocks") and hasattr(
            self.backbone.network, "patch_embed"
        )
        self.kind = (
            config.kind
            if config.kind != "auto"
            else ("gradcam" if config.label or config.like or not self.transformer else "attention")
        )
        if self.kind == "gradcam":
            self.aim()
        else:
            last_layer(self.backbone.network)  # or a sentence, before anything is read

    def aim(self) -> None:
        """Settle what Grad-CAM asks for."""
        c = self.config
        if self.head is None and c.label:
            raise ValueError(
                f"--label {c.label}: {c.model_path} is a backbone and knows no classes; --like takes a "
                "radiograph"
            )
        if self.head is None:
            self.module = self.backbone
            self.reference = self.reference_features() if c.like else None
            return
        if c.like:
            raise ValueError(
                f"--like: {c.model_path} is fine-tuned; --label chooses among its classes"
            )
        if type(self.head).__name__ != "Supervised" or self.head.covariates:
            raise ValueError(
                f"{c.model_path}: Grad-CAM is for heads with one answer from the radiograph alone; "
                "--kind attention for others"
            )
        classes = list(self.about.get("classes") or [])
        expected = {"binary": 2, "multiclass": self.head.head.out_features}.get(self.head.kind)
        if classes and expected and len(classes) != expected:
            raise ValueError(
                f"{c.model_path}: its config.json names {len(classes)} classes of {expected}"
            )
        if c.label and (self.head.kind == "regression" or c.label not in classes):
            choices = (
                ", ".join(classes)
                if classes and self.head.kind != "regression"
                else "none: it gives a number"
            )
            raise ValueError(f"--label {c.label}: choices of {c.model_path}: {choices}")
        self.module = nn.Sequential(self.backbone, self.head.head).eval().to(self.device)

    def reference_features(self):
        """[D] of the radiograph --like."""
        with torch.no_grad():
            return self.backbone(self.pixels([self.preprocessing.read(self.config.like)]))[0]

    def pixels(self, several: list):
        """Network pixels [B, 3, h, w] of radiographs [H, W] as `Preprocessing.read` gives them."""
        return self.preprocessing.normalise(
            torch.stack([self.preprocessing.fit(s) for s in several]).to(self.device)
        )

    def alike(self, several: list) -> list[tuple[str, str]]:
        """Whether radiographs [H, W] are like those that the network was fine-tuned on: "yes", "no", "unknown", or ""
        for a backbone; and the warning for it, "" if there is none."""
        if self.likeness is None:
            return [("", "")] * len(several)
        inputs = torch.stack([self.preprocessing.fit(scaled) for scaled in several])
        with torch.no_grad():
            features = (
                self.head.features(self.preprocessing.normalise(inputs.to(self.device)))
                .float()
                .cpu()
                .numpy()
            )
        found = self.likeness.of(
            [features], [np.stack([look(picture) for picture in inputs[:, 0].numpy()])]
        )
        return [(self.likeness.word(value), self.likeness.sentence(value)) for value in found]

    def maps(self, several: list) -> tuple:
        """(maps [B, M, rows, columns], what each shows) of radiographs [H, W]."""
        images = self.pixels(several)
        where = f"{self.config.model_path}: maps"
        if self.kind == "attention":
            found = attention_maps(self.backbone, images)
            require_finite(found, where)
            return found.cpu().numpy(), [self.shows] * len(several)
        target, told = self.target(images)
        if self.transformer:
            network = self.backbone.network
            sides = [
                side // patch
                for side, patch in zip(images.shape[-2:], network.patch_embed.patch_size)
            ]
            prefix = network.num_prefix_tokens
            layer = network.blocks[-1].norm1

            def as_map(tokens):
                return tokens[:, prefix:].transpose(1, 2).unflatten(2, sides)

            found = grad_cam(self.module, layer, images, target, as_map=as_map)
        else:
            found = grad_cam(self.module, last_map(self.backbone, images[:1]), images, target)
        require_finite(found, where)
        return found[:, None].cpu().numpy(), told

    @property
    def shows(self) -> str:
        """A line on what attention maps show."""
        asks = (
            "class token"
            if getattr(self.backbone.network, "cls_token", None) is not None
            else "patches"
        )
        return f"attention of the {asks} in the last block, mean of the heads, own scale"

    def target(self, images) -> tuple:
        """(what Grad-CAM asks for: outputs -> [B], what it is called for each radiograph)."""
        if self.head is None:
            if self.reference is None:
                return own_features, ["Grad-CAM of the length of its features, own scale"] * len(
                    images
                )
            return likeness(self.reference), [
                f"Grad-CAM of the likeness to {self.config.like.name}, own scale"
            ] * len(images)
        classes = [str(name) for name in self.about.get("classes") or []]
        with torch.no_grad():
            outputs = self.module(images)
        if self.head.kind == "regression":
            return lambda out: out[:, 0], ["Grad-CAM of the value, own scale"] * len(images)
        if self.head.kind == "binary":
            wanted = [classes.index(self.config.label) if self.config.label else 1] * len(images)
            sign = 1 if wanted[0] else -1
            answer = lambda out: sign * out[:, 0]  # noqa: E731
        else:
            wanted = outputs.argmax(1).tolist()
            wanted = (
                [classes.index(self.config.label)] * len(images) if self.config.label else wanted
            )
            chosen = torch.tensor(wanted, device=images.device)[:, None]
            answer = lambda out: out.gather(1, chosen)[:, 0]  # noqa: E731
        names = classes if classes else [str(number) for number in range(max(2, outputs.shape[1]))]
        return answer, [f"Grad-CAM for {names[which]!r}, own scale" for which in wanted]


def is_finetuned(folder: Path) -> bool:
    """Whether a folder is one of `models.backbones.finetuned`."""
    return (folder / "config.json").is_file() and isinstance(
        read_json(folder / "config.json").get("head"), dict
    )


def looked(config, looker: Looker, sources: list, failed: list):
    """(stem, path, radiograph [H, W], maps [M, rows, columns], what they show, whether it is like the training
    radiographs and the warning for it) of all that can be read, in order."""
    waiting = []
    for number, (stem, path) in enumerate(bar("attention", "radiograph")(sources, len(sources))):
        try:
            waiting.append((stem, path, looker.preprocessing.read(path)))
        except UnreadableRadiograph as error:
            failed.append((path, error.reason, error.detail))
        if waiting and (len(waiting) == config.batch_size or number + 1 == len(sources)):
            several = [scaled for _, _, scaled in waiting]
            maps, told = looker.maps(several)
            yield from (
                (*one, *more) for one, *more in zip(waiting, maps, told, looker.alike(several))
            )
            waiting = []


def drawn(
    config,
    looker: Looker,
    stem,
    path,
    scaled,
    maps,
    told: str,
    alike: tuple[str, str],
    number: int,
    total: int,
) -> tuple:
    """Write the files of a radiograph; returns its row of summary.csv and its card."""
    p = looker.preprocessing

    def back(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return p.map_back(resized(values.astype(np.float32), (p.height, p.width)), size)

    def file(ending: str) -> Path:
        return config.out / f"{stem}{ending}"

    word, warning = alike
    warnings = [f"WARNING: {warning}"] if warning else []
    below = f"UNLIKE THE TRAINING RADIOGRAPHS. {told}" if word == "no" else told
    endings, small = write_pictures(
        file,
        looker.kind,
        scaled,
        maps,
        back,
        title=path.name,
        told=below,
        alpha=config.alpha,
        colours=config.colours,
    )
    share = focus(maps.mean(axis=0))
    shown = {
        ending[1:].removesuffix(".png"): f"{stem}{ending}"
        for ending in endings
        if ending.endswith(".png")
    }
    facts = [
        *warnings,
        told.removesuffix(", own scale"),
        f"{scaled.shape[1]}\u00d7{scaled.shape[0]}",
    ]
    card = Card(printable(stem), share, facts, thumbnail(small, config.out, number, total), shown)
    (heads, rows, columns), (height, width) = maps.shape, scaled.shape
    row = {
        "path": printable(path),
        "outputs": printable(stem),
        "like_training": word,
        "shows": told,
        "focus": share,
        "heads": heads,
        "rows": rows,
        "columns": columns,
        "height": height,
        "width": width,
    }
    return row, card


def write_results(config, looker: Looker, rows: list, cards: list, failed: list) -> None:
    """summary.csv, failed.csv and the page."""
    columns = (
        "path",
        "outputs",
        "like_training",
        "shows",
        "focus",
        "heads",
        "rows",
        "columns",
        "height",
        "width",
    )
    write_table(config.out / "summary.csv", columns, rows)
    lost = [(printable(path), reason, detail) for path, reason, detail in failed]
    write_table(
        config.out / "failed.csv",
        ("path", "reason", "detail"),
        [dict(zip(("path", "reason", "detail"), row)) for row in lost],
    )
    name = {"attention": "Attention of the last block", "gradcam": "Grad-CAM"}[looker.kind]
    write_report(
        config.out / "index.html",
        Report(
            title=name,
            lead=" ".join([*looker.told, LEAD]),
            counts={
                "radiographs": f"{len(rows):,}",
                "unreadable": f"{len(failed):,}",
                "places of a map": f"{rows[0]['rows']} \u00d7 {rows[0]['columns']}"
                if rows
                else "-",
            },
            settings=asdict(config),
            cards=cards,
            score_name="focus",
            failed=lost,
        ),
    )

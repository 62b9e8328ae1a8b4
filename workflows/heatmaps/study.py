"""One run of `zero_shot_heatmap.py`: radiographs -> error maps on disk and one record each; nothing else is kept.

The script hands in what belongs to other rooms: the network, the preprocessing, the reading of files, the truth.
`config` is the script's dataclass of flags.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import torch

from core.checks import NotFinite
from core.files import atomic, printable, sha256_of
from core.output_folder import append_record
from core.progress import steps
from core.system.device import autocast
from evaluation.maps.error_maps import (
    ErrorMaps,
    describe,
    error_maps,
    mask_generator,
    patch_errors,
    visible_patches,
)
from evaluation.maps.localisation import (
    BASELINES,
    chance_scores,
    localisation_scores,
    shrink,
    shrink_mask,
)
from workflows.heatmaps.figures import keep_drawing, make_drawing, write_panel
from workflows.heatmaps.normal_reference import Radiograph, TooFewNormals, cells_of

LOCALISATION_SIDE = 256  # pixels, longer side, at which maps are compared with findings


class Unreadable(NamedTuple):
    """Why a file is no radiograph, or has no map: one word, one sentence."""

    reason: str
    detail: str


@dataclasses.dataclass
class Source:
    """One radiograph: where it is, what it is called, where its outputs go (relative, without ending)."""

    path: Path
    name: str  # path below its input folder: decides the masks
    groups: tuple[
        str, ...
    ] = ()  # what the reference may call its normals, the narrowest name first
    stem: PurePath = PurePath()


@dataclasses.dataclass
class Study:
    """What every radiograph of this run is measured with."""

    config: Any
    device: Any
    model: Any
    preprocessing: Any
    passes: int
    mask_ratio: float
    visible: int  # patches in each pass
    error: str
    settings: dict  # what the values of a map depend on
    read: Callable[
        [Path], "np.ndarray | Unreadable"
    ]  # pixels [H, W] as the preprocessing scales them
    identify: Callable[
        [Path, np.ndarray], tuple[str, bytes]
    ]  # file and its pixels -> its sha256, their fingerprint
    progress: Callable[[str, int], Any]  # (title, total) -> a tqdm
    reference: Any = None
    truth: Any = None
    untrained: Any = None

    @property
    def word(self) -> str:
        """What kind of error the maps hold."""
        return "squared" if self.error == "l2" else "absolute"

    @property
    def key(self) -> str:
        """The record's entry that radiographs are ranked by."""
        return "mean_error" if self.reference is None else "z_max"

    def file(self, source: Source, ending: str) -> Path:
        return self.config.out / f"{source.stem}{ending}"


def masks_of(study: Study, source: Source) -> np.ndarray:
    """Which patches of a radiograph stay visible in each pass: [R, K]."""
    c = study.config
    return visible_patches(
        study.passes, study.model.grid, study.visible, mask_generator(c.seed, source.name), c.masks
    )


def require_full_coverage(study: Study, sources: list[Source]) -> None:
    """ValueError if a pass count leaves patches that are never hidden: they can be neither scored nor compared."""
    patches = study.model.grid[0] * study.model.grid[1]
    partial = [
        source
        for source in steps(sources, "masks", "radiograph")
        if np.bincount(masks_of(study, source).ravel(), minlength=patches).max() == study.passes
    ]
    if partial:
        raise ValueError(
            f"{study.passes} {study.config.masks} masks never hide some patches of {len(partial)} of {len(sources)} "
            f"radiographs (first: {partial[0].path}); --truth and --reference need all: give --masks complementary or "
            "more --passes"
        )


def measured(study: Study, sources: list[Source], done: list[dict], failed: list) -> Iterator[dict]:
    """The record of each radiograph: finished ones as they are, the others measured and written."""
    finished = {r["path"]: r for r in done}
    todo = []
    for source in steps(sources, "finished radiographs", "radiograph"):
        record = finished.get(printable(source.path))
        if (
            record
            and record["stem"] == printable(source.stem)
            and all(study.file(source, e).exists() for e in record["files"])
            and source.path.exists()
            and record["sha256"] == sha256_of(source.path)
            and (
                study.reference is None
                or record["groups"] == [printable(group) for group in source.groups]
            )
        ):
            yield record
        else:
            todo.append(source)
    mapped = measure(study, todo, failed, "heat maps", study.model, study.config.panel_passes)
    beside = ((*item, untrained_map(study, item[0], item[2])) for item in mapped)
    # the network works on while threads write
    written = ahead(
        lambda item: (item[0], write_maps(study, *item)), beside, study.config.num_workers
    )
    for source, record in written:
        if isinstance(record, Unreadable):
            failed.append((source.path, record.reason, record.detail))
            continue
        append_record(study.config.out, record)
        yield record


def measure(
    study: Study, sources: list[Source], failed: list, title: str, model, keep: int = 0
) -> Iterator[tuple]:
    """(source, pixels, input [3, h, w], maps of this one radiograph) for each readable one; some at a time."""

    def read(source: Source):
        pixels = study.read(source.path)
        return (
            source,
            pixels,
            None if isinstance(pixels, Unreadable) else study.preprocessing.fit(pixels),
        )

    together = max(1, study.config.batch_size // study.passes)
    with study.progress(title, len(sources)) as bar:
        waiting: list[tuple] = []
        for source, pixels, tensor in ahead(read, sources, study.config.num_workers):
            if tensor is None:
                failed.append((source.path, pixels.reason, pixels.detail))
                bar.update()
                continue
            waiting.append((source, pixels, tensor))
            if len(waiting) == together:
                yield from forward(study, waiting, model, keep)
                bar.update(len(waiting))
                waiting = []
        yield from forward(study, waiting, model, keep)
        bar.update(len(waiting))


def forward(study: Study, waiting: list[tuple], model, keep: int = 0) -> Iterator[tuple]:
    """All passes of a few radiographs through `model`."""
    if not waiting:
        return
    batch = study.preprocessing.normalise(
        torch.stack([tensor for _, _, tensor in waiting]).to(study.device)
    )
    visible = np.stack([masks_of(study, source) for source, _, _ in waiting])
    try:
        with autocast(study.device, study.settings["precision"]):
            maps = error_maps(
                model,
                batch,
                visible,
                mean=study.preprocessing.mean,
                std=study.preprocessing.std,
                error=study.error,
                batch_size=study.config.batch_size,
                shown=keep,
            )
    except NotFinite as error:
        first = printable(waiting[0][0].path)
        raise NotFinite(
            f"{study.config.model_path}: {error} (at {first} or the next {len(waiting) - 1})"
        ) from None
    for i, (source, pixels, _) in enumerate(waiting):
        yield source, pixels, batch[i], ErrorMaps(*(part[i : i + 1] for part in maps))


def untrained_map(study: Study, source: Source, image) -> np.ndarray | None:
    """The map [h, w] of a network that has learnt nothing, if the truth knows this radiograph."""
    if study.truth is None or not study.truth.mentions(source.path):
        return None
    with autocast(study.device, study.settings["precision"]):
        return error_maps(
            study.untrained,
            image[None],
            masks_of(study, source)[None],
            mean=study.preprocessing.mean,
            std=study.preprocessing.std,
            error=study.error,
            batch_size=study.config.batch_size,
        ).maps[0]


def write_maps(
    study: Study, source: Source, pixels: np.ndarray, image, maps, untrained
) -> "dict | Unreadable":
    """Map, z-map and panel of one radiograph; returns its record, or why there is none."""
    size = pixels.shape[:2]
    preprocessing = study.preprocessing
    compared = None
    if study.reference is not None:
        try:
            compared = study.reference.compare(
                kept_of(study, source, pixels, image, maps), source.groups
            )
        except TooFewNormals as error:
            return Unreadable(
                "too-few-normals", f"without this radiograph and its near-duplicates {error}"
            )
    study.file(source, "").parent.mkdir(parents=True, exist_ok=True)
    facts = describe(maps.maps[0], maps.hits[0], preprocessing.placement(size)[1])
    record = {
        "path": printable(source.path),
        "stem": printable(source.stem),
        "height": size[0],
        "width": size[1],
        "groups": [printable(group) for group in source.groups],
        **facts,
    }
    full = mapped_back(preprocessing, maps.maps[0], maps.hits[0] > 0, size)
    save_array(study.file(source, "_error.npy"), full)
    record["files"] = ["_error.npy"]
    z_map = None
    if compared is not None:
        P = study.model.patch_size
        z = compared.z
        known = np.isfinite(z)
        z_map = np.kron(np.where(known, z, 0), np.ones((P, P), np.float32))
        z_map = mapped_back(preprocessing, z_map, known, size)
        save_array(study.file(source, "_z.npy"), z_map)
        record["files"].append("_z.npy")
        record |= facts_of(compared)
    if maps.shown.shape[1]:
        record["files"] += write_panel(study, source, size, image, maps, facts)
    if untrained is not None:
        record |= localise(study, source, pixels, full, z_map, untrained)
    keep_drawing(study, source, make_drawing(pixels, full if z_map is None else z_map))
    return record | {"sha256": sha256_of(source.path)}


def kept_of(study: Study, source: Source, pixels: np.ndarray, image, maps) -> Radiograph:
    """What a reference keeps of a radiograph, of what `measure` gives."""
    shown = study.preprocessing.denormalise(image[None])[0].mean(0).cpu().numpy()
    errors = patch_errors(maps.maps[0], maps.hits[0])
    return Radiograph(errors, cells_of(shown), *study.identify(source.path, pixels))


def facts_of(compared) -> dict:
    """What the record of a radiograph says of its reference (`workflows.heatmaps.normal_reference.Comparison`); z
    over its patches.
    """
    return {
        "z_max": float(np.nanmax(compared.z)),
        "z_mean": float(np.nanmean(compared.z)),
        "z_p99": float(np.nanquantile(compared.z, 0.99)),
        "reference_group": printable(compared.group) or "all",
        "reference_normals": compared.normals,
        "left_out": compared.left_out,
        "outside_share": compared.outside,
        "outside_limit": compared.limit,
        "outside_reference": compared.outside > compared.limit,
    }


def mapped_back(
    preprocessing, values: np.ndarray, known: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """A map [h, w] onto the radiograph, float32 of `size`: NaN where the patch is not `known` (bool [rows, columns]).

    `values` are 0 in unknown patches; known neighbours are not diluted by them.
    """
    full = preprocessing.map_back(values, size)
    if known.all():
        return full
    P = values.shape[0] // known.shape[0]
    share = preprocessing.map_back(np.kron(known, np.ones((P, P), np.float32)), size)
    return np.divide(
        full, share, out=np.full(size, np.nan, np.float32), where=share > 0.5
    )  # the nearest is known


def save_array(path: Path, values: np.ndarray) -> None:
    """Write a .npy as a whole or not at all."""
    with atomic(path) as file:
        np.save(file, values)


def localise(study: Study, source: Source, pixels, error_map, z_map, untrained) -> dict:
    """Scores of the map and of the maps it must beat, where the truth knows this radiograph."""
    mask = study.truth.lookup(source.path, pixels.shape[:2])
    if mask is None:
        return {}
    record = {
        "condition": study.truth.condition(source.path),
        "patient": study.truth.patient(source.path),
    }
    record["finding_fraction"] = float(mask.mean())
    if not mask.any():
        return record
    maps = {"error map": error_map} | ({} if z_map is None else {"z map": z_map})
    maps |= {"untrained network": study.preprocessing.map_back(untrained, pixels.shape[:2])}
    maps = {
        name: shrink(np.nan_to_num(m, nan=np.nanmin(m)), LOCALISATION_SIDE)
        for name, m in maps.items()
    }
    grey = shrink(pixels, LOCALISATION_SIDE) / (255 if pixels.dtype == np.uint8 else 1)
    maps |= {name.replace("_", " "): function(grey) for name, function in BASELINES.items()}
    small = shrink_mask(mask, LOCALISATION_SIDE)
    options = {"tolerance": study.config.tolerance}
    options["quantile"] = study.config.iou_quantile
    scores = {name: localisation_scores(m, small, **options) for name, m in maps.items()}
    return record | {"localisation": scores | {"chance": chance_scores(small, **options)}}


def ahead(function: Callable, items: Iterable, workers: int) -> Iterator:
    """`map` in threads, in order, never more than a few items ahead."""
    with ThreadPoolExecutor(workers) as pool:
        pending: deque = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

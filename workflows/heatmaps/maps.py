"""Error maps of folders of radiographs."""

import dataclasses
import functools
import hashlib
import json
import os
from pathlib import Path, PurePath

import torch

from core.files import check_folder, lock_folder, printable, sha256_of
from core.output_folder import folder_labels, open_records, output_stems
from core.progress import meter, say, warn
from core.system.device import choose_device, prepare_device, resolve_precision
from core.tables import list_names
from data.datasets.truth import read_truth
from data.reading.listing import listed_groups
from data.reading.near_duplicates import DISTANCE, RULES, picture_hash
from data.reading.radiograph import list_radiographs, passed_over_message
from data.reading.refusal import UnreadableRadiograph
from data.views.preprocessing import Preprocessing
from evaluation.maps.error_maps import complementary_passes
from models.networks.mae import visible_count
from models.weights.checkpoint import load_mae
from workflows.heatmaps.figures import ENDINGS, forget_drawings
from workflows.heatmaps.normal_reference import FEW, NormalReference
from workflows.heatmaps.reference_groups import groups_sentence, outside_sentence
from workflows.heatmaps.report import drawn, write_results
from workflows.heatmaps.study import (
    Source,
    Study,
    Unreadable,
    ahead,
    kept_of,
    measure,
    measured,
    require_full_coverage,
)


def draw_maps(config) -> int:
    """Measure, draw, report; 3 if a radiograph could not be read, else 0."""
    check(config)

    failed: list[tuple[Path, str, str]] = []
    sources = find_sources(config.in_dirs, config.recursive, config.out, failed, config.group)
    study = prepare(config)
    settings = study.settings | {
        "seed": config.seed,
        "panel_passes": config.panel_passes,
        "format": config.format,
    }
    settings |= {
        "reference": list(map(content_hash, config.reference)) or None,
        "truth": content_hash(config.truth),
    }
    settings |= {"tolerance": config.tolerance, "iou_quantile": config.iou_quantile}
    if config.reference or config.truth is not None:
        require_full_coverage(study, sources)
    config.out.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(
        config.out, "another run is writing into this folder; wait for it or give another --out"
    )
    done = open_records(config.out, settings, resume=config.resume, overwrite=config.overwrite)
    if not done:
        forget_drawings(config.out)
    else:
        say(f"resuming: {len(done)} radiographs are finished")

    if config.reference:
        made_from = json.dumps([settings["reference"], config.recursive, config.seed])
        study.reference = normal_reference(study, made_from, bool(done), failed)
        tell_groups(config, study.reference, sources)
    if config.truth is not None:
        study.truth, study.untrained = findings(study, sources)
    records = {r["path"]: r for r in measured(study, sources, done, failed)}
    if config.reference:
        check_reference(config, list(records.values()))
    kept = [s for s in sources if printable(s.path) in records]
    cards, high = drawn(study, kept, records, failed)
    tables = write_results(
        study, settings, [records[printable(s.path)] for s in kept], cards, high, failed
    )
    lock.close()
    conclude(config, len(kept), tables, failed)
    return 3 if failed else 0


def check(config) -> None:
    """Refuse what could only fail later; settle flags that say the same thing twice."""
    check_folder(config.out)
    if config.l1 and config.l2:
        raise ValueError("--l1 and --l2 exclude each other")
    if config.plot_norm is not None:
        if config.scale is not None:
            raise ValueError("--plot-norm and --scale say the same thing; give one of them")
        config.scale = "fixed" if config.plot_norm else "image"
        config.scale_max = config.scale_max or 1.0 if config.plot_norm else config.scale_max
    config.scale = config.scale or "cohort"
    if (config.group or config.force_reference) and not config.reference:
        raise ValueError("--group and --force_reference need the normal radiographs of --reference")
    if len(config.reference) > 1 and any(
        path.suffix.lower() == ".npz" for path in config.reference
    ):
        raise ValueError(
            "--reference takes one .npz, or any number of folders and lists of radiographs"
        )
    config.format = "jpeg" if config.format == "jpg" else config.format
    if (config.scale == "fixed") != (config.scale_max is not None):
        raise ValueError("--scale fixed and --scale-max need each other")
    limits = {
        "passes": config.passes >= 1,
        "batch_size": config.batch_size >= 1,
        "num_workers": config.num_workers >= 1,
        "panel_passes": config.panel_passes >= 0,
        "seed": config.seed >= 0,
        "alpha": 0 <= config.alpha <= 1,
        "scale_max": config.scale_max is None or 0 < config.scale_max < float("inf"),
        "mask_ratio": config.mask_ratio is None or 0 < config.mask_ratio < 1,
        "tolerance": 0 <= config.tolerance < float("inf"),
        "iou_quantile": config.iou_quantile is None or 0 <= config.iou_quantile < 1,
    }
    for name, fine in limits.items():
        if not fine:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(config, name)} is out of range")


def find_sources(
    entries: list[Path], recursive: bool, exclude: Path, failed: list, group: str | None = None
) -> list:
    """All radiographs once, with output names that never collide; what lies in the output folder is left out.

    A folder that is empty or cannot be listed goes to `failed`, unless nothing at all is left. A radiograph belongs to
    `group`, else to what the column `group` of a .csv list says, else to the first folder below its input folder and
    to that of the input folder itself.
    """
    listed: dict[str, tuple[Path, Path, str]] = {}  # real path -> (root, path, group of a list)
    lost: list[tuple[Path, str, str]] = []
    passed_over = {}
    out = os.path.realpath(exclude) + os.sep
    for entry in entries:
        try:
            paths = list_radiographs([entry], recursive=recursive, passed_over=passed_over)
        except (FileNotFoundError, PermissionError) as error:
            if not entry.is_dir():
                raise
            reason = "no-permission" if isinstance(error, PermissionError) else "no-radiographs"
            lost.append((entry, reason, str(error)))
            continue
        named = listed_groups(entry) if entry.suffix.lower() == ".csv" and entry.is_file() else {}
        for path in paths:
            real = os.path.realpath(path)
            if not real.startswith(out):
                listed.setdefault(
                    real, (entry if entry.is_dir() else path.parent, path, named.get(real, ""))
                )
    if not listed:
        details = "; ".join(detail for _, _, detail in lost)
        raise ValueError(
            details or f"no radiographs in {', '.join(map(str, entries))} outside the output folder"
        )
    if message := passed_over_message(passed_over, exclude):
        say(message)
    failed += lost
    labels = folder_labels(list(dict.fromkeys(root for root, _, _ in listed.values())))
    sources = []
    for root, path, listed_group in listed.values():
        below = path.relative_to(root)
        if group or listed_group:
            groups = (group or listed_group,)
        else:
            groups = tuple(
                filter(None, dict.fromkeys([*below.parts[:-1][:1], root.resolve().name]))
            )
        sources.append(Source(path, below.as_posix(), groups, PurePath(labels[root]) / below))
    for source, stem in zip(sources, output_stems([s.stem for s in sources], ENDINGS)):
        source.stem = stem
    return sources


def prepare(config):
    """Load the network and settle what is measured."""
    device = choose_device(config.device)
    precision = resolve_precision(config.precision, device)
    prepare_device(device, config.strict_fp32)
    loaded = load_mae(config.model_path, weights=config.weights)
    model = loaded.model.to(device)
    say(f"{config.model_path}: {loaded.report}")
    h, w = model.input_size
    if loaded.preprocessor is None:
        preprocessing = Preprocessing(height=h, width=w)
        say(
            "note: the checkpoint does not say how its radiographs were prepared; this is assumed: "
            f"{preprocessing.describe()}"
        )
    else:
        preprocessing = Preprocessing.from_dict(loaded.preprocessor)
    if (preprocessing.height, preprocessing.width) != (h, w):
        raise ValueError(
            f"{config.model_path}: prepares radiographs at {preprocessing.height} x {preprocessing.width} pixels, but "
            f"its network takes {h} x {w}"
        )
    if not config.imagenet_norm:
        preprocessing = dataclasses.replace(
            preprocessing, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
        )
    ratio = model.mask_ratio if config.mask_ratio is None else config.mask_ratio
    patches = model.grid[0] * model.grid[1]
    passes = config.passes
    visible = visible_count(patches, ratio)
    if config.masks == "complementary":
        passes = complementary_passes(passes, patches, visible)
        if passes != config.passes:
            say(
                f"note: {passes} passes instead of {config.passes}, so that every patch is hidden equally often"
            )
        elif passes * visible % patches:
            say("note: at this mask ratio some patches are hidden once more often than others")
    if model.norm_pix_loss:
        say(
            "note: this network predicts normalised patches; each gets its own mean and standard deviation back"
        )
    error = "l1" if config.l1 or config.l2 is False else "l2"
    settings = {
        "checkpoint": content_hash(config.model_path),
        "preprocessing": preprocessing.to_dict(),
        "mask_ratio": ratio,
        "passes": passes,
        "masks": config.masks,
        "error": error,
        "precision": precision,
    }
    settings |= {"weights": config.weights} if config.weights != "ema" else {}
    reader = functools.partial(read, preprocessing)
    return Study(
        config,
        device,
        model,
        preprocessing,
        passes,
        ratio,
        visible,
        error,
        settings,
        reader,
        identify,
        progress,
    )


def content_hash(path: Path | None) -> str | None:
    """What stands for the content of a file (its sha256) or folder (names and sha256 or, if many, sizes and times)."""
    if path is None:
        return None
    if path.is_file():
        return sha256_of(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder")
    digest = hashlib.sha256()
    files = sorted(f for f in path.rglob("*") if f.is_file())
    for file in files:
        stat = file.stat()
        content = sha256_of(file) if len(files) <= 20 else f"{stat.st_size} {stat.st_mtime_ns}"
        digest.update(os.fsencode(file.relative_to(path)) + b"\0" + content.encode() + b"\0")
    return digest.hexdigest()


def normal_reference(study, made_from: str, resumed: bool, failed: list):
    """Read the reference, or measure normal radiographs; stored as OUT/reference.npz either way.

    made_from: what a measured reference depends on beside `study.settings`; a run that is `resumed` takes the one that
    it has stored.
    """
    config = study.config
    target = study.config.out / "reference.npz"
    settings = study.settings | {"fingerprints": f"{RULES}, {DISTANCE} bits"}
    stored = [path for path in config.reference if path.suffix.lower() == ".npz"]
    if stored:
        reference = NormalReference.load(stored[0])
        differing = sorted(k for k in settings if reference.settings.get(k) != settings[k])
        if differing:
            raise ValueError(
                f"{stored[0]}: made with another {', '.join(differing)}; a z-score needs the same conditions"
            )
    else:
        reference = NormalReference.load(target) if resumed and target.is_file() else None
        if reference is None or reference.source != made_from or reference.settings != settings:
            before = len(failed)
            reference = NormalReference(settings, near=DISTANCE)
            normals = find_sources(config.reference, config.recursive, config.out, failed)
            mapped = measure(study, normals, failed, "reference", study.model)
            kept = ahead(
                lambda item: (item[0].groups, kept_of(study, *item)), mapped, config.num_workers
            )
            for groups, normal in kept:
                reference.add(normal, groups)
            reference.source = (
                made_from if len(failed) == before else ""
            )  # what cannot be read is told again
    reference.moments("")  # at least two, or a sentence
    parts = [f"{group or 'others'} {count}" for group, count in reference.parts.items()]
    say(f"reference: {reference.groups['']} normal radiographs ({list_names(parts)})")
    if reference.copies:
        say(f"note: {reference.copies} files of the reference are copies of others and count once")
    reference.save(target)
    return reference


def tell_groups(config, reference, sources: list) -> None:
    """Print which normals the radiographs will be compared with; ValueError if the reference lacks `--group`."""
    groups = sorted(group for group, count in reference.groups.items() if group and count >= 2)
    known = list_names(groups)
    if config.group and not reference.group_for([config.group]):
        raise ValueError(
            f"--group {config.group}: the reference has no two normal radiographs of it; it has {known}"
        )
    used = [(source.groups, reference.group_for(source.groups)) for source in sources]
    say(f"z-scores: {groups_sentence([(names, group or 'all') for names, group in used])}")
    counts = {
        group or "all": reference.groups[group] for group in sorted({group for _, group in used})
    }
    if few := [f"{group} {count}" for group, count in counts.items() if count < FEW]:
        say(
            f"note: z-scores from fewer than {FEW} normal radiographs are coarse ({list_names(few)}); the page says "
            "what they can reach"
        )
    if not all(group for _, group in used):
        parts = sorted(group for group in reference.parts if group)
        several = (
            "compared with a mixture of them" if len(parts) > 1 else "compared with all normals"
        )
        say(
            f"note: the reference knows {list_names(parts)}, and radiographs are {several}; --group or a column group "
            "chooses one"
        )
    for group in {group for _, group in used}:
        reference.limit(group)  # computed once, before several threads ask for it


def check_reference(config, records: list[dict]) -> None:
    """ValueError if most radiographs are unlike their normals, or with --force_reference a warning."""
    if left_out := sum(record["left_out"] > 0 for record in records):
        said = "radiographs are in the reference, or near-duplicates of them: left out of it for their own maps"
        say(f"{left_out} of {len(records)} {said}")
    unlike = sum(record["outside_reference"] for record in records)
    told = outside_sentence(records)
    if told and not config.force_reference:
        raise ValueError(
            f"{told}: their z-scores would say nothing. Give --reference with normals of the same body part and view, "
            "in folders or with a column group named alike. To see the maps all the same, add --force_reference "
            f"--resume; what was measured is kept in {config.out}"
        )
    if told:
        warn(f"warning: {told}; do not use their z-scores")
    elif unlike:
        say(
            f"note: {unlike} of {len(records)} radiographs are unlike their normals (column outside_reference)"
        )


def findings(study, sources: list):
    """The truth, and a network of the same architecture that has learnt nothing."""
    truth = read_truth(study.config.truth)
    known = sum(truth.mentions(source.path) for source in sources)
    if not known:
        raise ValueError(
            f"{study.config.truth}: mentions none of the {len(sources)} radiographs; entries must be named like them, "
            f"e.g. {Path(sources[0].name).with_suffix('')}"
        )
    say(f"truth: {known} of {len(sources)} radiographs")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(study.config.seed)
        untrained = type(study.model)(study.model.config).eval().to(study.device)
    return truth, untrained


def read(preprocessing, path: Path):
    """Pixels [H, W] of a radiograph as the preprocessing scales them, or why there are none."""
    try:
        return preprocessing.read(path)
    except UnreadableRadiograph as error:
        return Unreadable(error.reason, error.detail)


def identify(path: Path, pixels):
    """By what a radiograph is known again: the sha256 of its file and a fingerprint of its pixels."""
    return sha256_of(path), picture_hash(pixels).tobytes()


def progress(title: str, total: int):
    """A progress bar with radiographs per second on the error stream."""
    return meter(title, total, "radiograph")


def conclude(config, count: int, tables: list, failed: list) -> None:
    """The last lines on the screen."""
    for table in tables:
        widths = [
            max(len(row[i]) for row in [table.columns, *table.rows])
            for i in range(len(table.columns))
        ]
        say("", table.title)
        for row in [table.columns, *table.rows]:
            say("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    say("", f"{count} radiographs; open {config.out / 'index.html'}")
    if failed:
        say(f"{len(failed)} could not be read, see {config.out / 'failed.csv'}:")
    for path, reason, detail in failed[:5]:
        say(f"  {path}: {reason}: {detail}")

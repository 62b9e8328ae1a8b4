"""Features of radiographs as tables."""

import importlib.util
import io
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from core.files import atomic, check_output, make_folder, printable, write_text
from core.progress import bar, say
from core.system.device import autocast, choose_device, prepare_device
from core.tables import checked_names, line_text, write_table
from data.datasets.csv_table import CsvTable
from data.datasets.loader import ordered_batches
from data.datasets.unlabelled import PreparedRadiographs
from data.reading.listing import list_radiographs, passed_over_message
from data.reading.manifest import common_folder, fingerprints, name_below, write_manifest
from data.views.preprocessing import Preprocessing
from models.backbones.backbone import build_backbone
from models.backbones.features import weights_hash
from training.run import environment

ENDINGS = (".npz", ".csv", ".parquet")


def extract(config) -> int:
    """Exit status: 0, or 3 if some radiographs cannot be used."""
    check(config)

    records, classes = labels(config)
    paths, rows_of = radiographs(config, records)
    device = choose_device(config.device)
    prepare_device(device)
    size = tuple(config.input_size * 2)[:2] if config.input_size else None
    backbone = build_backbone(config.model_path, input_size=size, weights=config.weights)
    known = backbone.preprocessing
    preprocessing = Preprocessing.of(known, backbone.input_size)
    say(backbone.report)
    make_folder(config.out.parent)
    if not known:
        say(
            "note: the checkpoint does not say how its radiographs were prepared; this is assumed: "
            f"{preprocessing.describe()}"
        )
    rows, found, failed = computed(config, backbone, preprocessing, paths, device)
    if not rows:
        write_failed(config, failed)
        raise ValueError(
            f"none of the {len(paths)} radiographs can be used; see {beside(config.out, 'failed.csv')}"
        )
    used = [paths[row] for row in rows]
    joined = None if records is None else records.reindex([rows_of[row] for row in rows])
    write_features(config.out, [str(path) for path in used], found, joined)
    shapes = {name: list(values.shape) for name, values in found.items()}
    write_about(config, backbone, preprocessing, shapes, classes)
    folder = common_folder(config.in_dirs or [config.data_root or config.csv])
    content = fingerprints(used, workers=config.num_workers, progress=bar("sha256"))
    write_manifest(
        beside(config.out, "manifest.csv"),
        {name_below(p, folder): entry for p, entry in content.items()},
    )
    write_failed(config, failed)
    told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    say(f"{config.out}: {told}" + (f"; {len(failed)} radiographs cannot be used" if failed else ""))
    return 3 if failed else 0


def check(config) -> None:
    """Refuse what could only fail later."""
    if config.out.suffix not in ENDINGS:
        raise ValueError(
            f"--out {config.out}: expected a name that ends in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
        )
    if config.patch and config.out.suffix != ".npz":
        raise ValueError(
            f"--patch: a {config.out.suffix} holds one row for each radiograph; use --out NAME.npz"
        )
    if config.out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ValueError(
            f"--out {config.out} needs the pyarrow package: pip install pyarrow, or use .csv or .npz"
        )
    if not config.in_dirs and config.csv is None:
        raise ValueError("give --in-dirs, or --csv with a table of the radiographs")
    if config.csv is None and config.data_root is not None:
        raise ValueError("--data_root is for --csv")
    if config.out.exists() and not config.overwrite:
        raise FileExistsError(f"--out {config.out}: exists; --overwrite replaces it")
    if len(config.input_size) > 2 or any(side < 1 for side in config.input_size):
        raise ValueError(
            f"--input_size {' '.join(map(str, config.input_size))}: expected 1 or 2 numbers of pixels"
        )
    if config.batch_size < 1 or config.num_workers < 0:
        raise ValueError("--batch_size must be at least 1, --num_workers at least 0")
    check_output(config.out)


def labels(config) -> tuple:
    """(records of --csv, the classes that their targets are indices of); (None, ()) without a table."""
    if config.csv is None:
        return None, ()

    looking = {"workers": config.num_workers, "progress": bar("looking for duplicates")}
    records = CsvTable.read(
        config.data_root,
        csv=config.csv,
        image_col=config.image_col,
        target_col=config.target_col,
        patient_col=config.patient_col,
        task=config.task,
        keep_missing=True,
        **({} if config.patient_col else looking),
    )
    for notice in records.attrs["notices"]:
        say(f"note: {notice}")
    return records, records.attrs["task"].classes


def radiographs(config, records) -> tuple[list[Path], list[int]]:
    """(the radiographs, the row of `records` that is about each; -1 where none is)."""
    if not config.in_dirs:
        return [Path(image) for image in records["image"]], list(range(len(records)))
    passed_over: dict = {}
    paths = list_radiographs(config.in_dirs, recursive=config.recursive, passed_over=passed_over)
    if message := passed_over_message(passed_over):
        say(message)
    if records is None:
        return paths, [-1] * len(paths)
    row_of = {os.path.realpath(image): row for row, image in enumerate(records["image"])}
    rows = [row_of.get(os.path.realpath(path), -1) for path in paths]
    named = sum(row >= 0 for row in rows)
    if not named:
        raise ValueError(
            f"--csv {config.csv} names none of the {len(paths):,} radiographs of --in-dirs; its paths "
            f"start from {config.data_root or config.csv.parent} (--data_root)"
        )
    if named < len(paths):
        say(
            f"note: {len(paths) - named:,} of {len(paths):,} radiographs are not in {config.csv}: they have no labels"
        )
    if named < len(records):
        say(
            f"note: {len(records) - named:,} of {len(records):,} rows of {config.csv} are about other radiographs"
        )
    return paths, rows


def computed(
    config, backbone, preprocessing, paths: list, device
) -> tuple[list[int], dict, list[dict]]:
    """(rows of `paths` that could be used, their features by kind, what failed)."""
    dataset = PreparedRadiographs(paths, preprocessing)
    batches = ordered_batches(
        dataset,
        range(len(paths)),
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        title="features",
    )
    rows = []
    parts = {}
    failed = []
    backbone.eval().to(device)
    for batch in batches:
        with torch.no_grad(), autocast(device, config.precision):
            tokens = backbone.tokens(batch["image"].to(device))
        good = [i for i, reason in enumerate(batch["reason"]) if not reason]
        rows += [int(batch["row"][i]) for i in good]
        failed += [
            {
                "path": printable(paths[int(batch["row"][i])]),
                "reason": reason,
                "detail": batch["detail"][i],
            }
            for i, reason in enumerate(batch["reason"])
            if reason
        ]
        for name, values in tokens.items():
            if name != "patch" or config.patch:
                parts.setdefault(name, []).append(values[good].float().cpu().numpy())
    found = {name: np.concatenate(values) for name, values in parts.items()}
    if any(not np.isfinite(values).all() for values in found.values()):
        raise ValueError(f"{config.model_path}: gives features that are not finite")
    return rows, found, failed


def beside(out: Path, ending: str) -> Path:
    """A file of the same name with another ending."""
    return out.with_name(f"{out.stem}.{ending}")


def write_features(out: Path, paths: list[str], found: dict, records) -> None:
    """Atomically; equal values give equal bytes. `records`: labels of the same rows, or None."""
    buffer = io.BytesIO()
    if out.suffix == ".npz":
        arrays = {"path": np.array(paths)} | found
        if records is not None:
            arrays["patient"] = np.array(records["patient"].fillna("").astype(str).tolist())
            arrays["target"] = records["target"].to_numpy(float)
        np.savez(buffer, **arrays)
    else:
        columns = [f"{name}_{i}" for name, values in found.items() for i in range(values.shape[1])]
        facts = facts_of(paths, records, columns)
        write = write_csv if out.suffix == ".csv" else write_parquet
        write(buffer, facts, columns, found)
    with atomic(out, expected=buffer.tell()) as file:
        file.write(buffer.getbuffer())


def facts_of(paths: list[str], records, taken: list[str]):
    """What stands before the features: path, patient, target, and the other columns of the table; those with a name
    that is `taken` are called "NAME (table)"."""
    facts = pd.DataFrame({"path": paths})
    if records is None:
        return facts
    for name in ("patient", "target"):
        facts[name] = records[name].to_numpy()
    others = records.drop(columns=["image", "patient", "target"])
    others.columns = [
        f"{name} (table)" if name in ("path", *taken) else name for name in others.columns
    ]
    checked_names(Path("--csv"), [*facts.columns, *others.columns])
    return pd.concat([facts, others.reset_index(drop=True)], axis=1)


def write_csv(buffer, facts, columns: list[str], found: dict) -> None:
    """Numbers as the shortest text that is read back as the same float32."""
    buffer.write(line_text([*facts.columns, *columns]).encode())
    values = np.concatenate(list(found.values()), axis=1)
    for words, row in zip(facts.itertuples(index=False), values):
        buffer.write(
            f"{line_text(list(words)).rstrip(chr(10))},{','.join(row.astype(str))}\n".encode()
        )


def write_parquet(buffer, facts, columns: list[str], found: dict) -> None:
    """With pyarrow."""
    values = pd.DataFrame(np.concatenate(list(found.values()), axis=1), columns=columns)
    pd.concat([facts, values], axis=1).to_parquet(buffer, index=False, engine="pyarrow")


def write_about(config, backbone, preprocessing, shapes: dict, classes: tuple[str, ...]) -> None:
    """What decided the numbers."""
    versions = environment()
    told = {
        "model": config.model_path,
        "report": backbone.report,
        "weights_sha256": weights_hash(backbone),
        "preprocessing": preprocessing.to_dict(),
        "precision": config.precision,
        "features": shapes,
        "packages": versions["packages"],
        "git_revision": versions["git_revision"],
    }
    if config.csv is not None:
        told["labels"] = {
            "table": str(config.csv),
            "target": config.target_col,
            "classes": list(classes),
        }
    write_text(beside(config.out, "json"), json.dumps(told, indent=2) + "\n")


def write_failed(config, failed: list[dict]) -> None:
    """NAME.failed.csv; one of an earlier run goes if nothing failed."""
    path = beside(config.out, "failed.csv")
    if failed:
        write_table(path, ["path", "reason", "detail"], failed)
    else:
        path.unlink(missing_ok=True)

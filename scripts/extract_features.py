"""Features of radiographs from any backbone, prepared as it was trained: class token, mean, patch tokens.

    python scripts/extract_features.py --model-path runs/dino/model --in-dirs /data/radiographs --out features.npz
    python scripts/extract_features.py --model-path dax --csv /data/table.csv --target_col sex --out features.csv
    python scripts/extract_features.py --model-path dax-checkpoint-resnet18-version-a.pth --in-dirs A --out f.parquet

The same command gives the same bytes. Beside OUT: NAME.json (network, hash of its weights, preprocessing, versions),
NAME.manifest.csv (size and sha256 of every file) and, if some cannot be used, NAME.failed.csv with the reasons; the
exit status is 3 then. A .csv or .parquet (needs pyarrow) has one row for each radiograph and one column for each
number, cls_0, ..., mean_0, ...; an .npz holds `path` [R] and an array for each kind of feature: `cls` and `mean`
[R, D], with --patch `patch` [R, N, D].

--csv joins a table, which is read as by train_downstream.py --data csv: `patient` (without --patient_col the group of
near-duplicates) and `target` (a number; the index of a class, see `classes` in NAME.json), in a .csv or .parquet also
the other columns. Without --in-dirs the radiographs are those of the table.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from core.flags import flag, run, weights_flag
from core.progress import bar, say

ENDINGS = (".npz", ".csv", ".parquet")


@dataclass
class Config:
    """Features of radiographs, from any backbone that can be read."""

    model_path: str = flag(help="backbone: alias, checkpoint folder or file, or timm name")
    out: Path = flag(help=f"file to write, {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    in_dirs: list[Path] = flag(
        [], "folders of radiographs, files, or .txt/.csv lists of files; default: those of --csv", alias="data_path"
    )
    csv: Path | None = flag(None, "table of labels to join, .csv or .xlsx")
    data_root: Path | None = flag(None, "of --csv: the folder that its paths start from; default: the table's")
    image_col: str = flag("image", "of --csv: column of the paths or ids")
    target_col: str = flag("target", "of --csv: column of the labels")
    patient_col: str | None = flag(None, "of --csv: column of the patients; without it near-duplicates are grouped")
    task: str = flag("binary", "of --csv", choices=("binary", "multiclass", "regression"))
    patch: bool = flag(False, "also the patch tokens (.npz only)")
    input_size: list[int] = flag(
        [], "side of the square input, or height and width, pixels; default the backbone's own"
    )
    recursive: bool = flag(True, "also radiographs in subfolders")
    overwrite: bool = flag(False, "replace what OUT holds")
    batch_size: int = flag(32, "radiographs that go through the network together")
    num_workers: int = flag(2, "loader processes")
    device: str = flag("auto", "auto, cpu, cuda or cuda:N")
    precision: str = flag("fp32", "of the network", choices=("fp32", "auto", "tf32", "bf16", "fp16"))
    weights: str = weights_flag()


def main(config: Config) -> int:
    """Exit status: 0, or 3 if some radiographs cannot be used."""
    check(config)
    from data.reading.manifest import common_folder, fingerprints, name_below, write_manifest
    from data.views.preprocessing import Preprocessing
    from models.backbones.backbone import build_backbone
    from core.system.device import choose_device, prepare_device
    from core.files import make_folder

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
        raise ValueError(f"none of the {len(paths)} radiographs can be used; see {beside(config.out, 'failed.csv')}")
    used = [paths[row] for row in rows]
    joined = None if records is None else records.reindex([rows_of[row] for row in rows])
    write_features(config.out, [str(path) for path in used], found, joined)
    shapes = {name: list(values.shape) for name, values in found.items()}
    write_about(config, backbone, preprocessing, shapes, classes)
    folder = common_folder(config.in_dirs or [config.data_root or config.csv])
    content = fingerprints(used, workers=config.num_workers, progress=bar("sha256"))
    write_manifest(beside(config.out, "manifest.csv"), {name_below(p, folder): entry for p, entry in content.items()})
    write_failed(config, failed)
    told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    say(f"{config.out}: {told}" + (f"; {len(failed)} radiographs cannot be used" if failed else ""))
    return 3 if failed else 0


def check(config: Config) -> None:
    """Refuse what could only fail later."""
    from core.files import check_output

    if config.out.suffix not in ENDINGS:
        raise ValueError(f"--out {config.out}: expected a name that ends in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    if config.patch and config.out.suffix != ".npz":
        raise ValueError(f"--patch: a {config.out.suffix} holds one row for each radiograph; use --out NAME.npz")
    if config.out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ValueError(f"--out {config.out} needs the pyarrow package: pip install pyarrow, or use .csv or .npz")
    if not config.in_dirs and config.csv is None:
        raise ValueError("give --in-dirs, or --csv with a table of the radiographs")
    if config.csv is None and config.data_root is not None:
        raise ValueError("--data_root is for --csv")
    if config.out.exists() and not config.overwrite:
        raise FileExistsError(f"--out {config.out}: exists; --overwrite replaces it")
    if len(config.input_size) > 2 or any(side < 1 for side in config.input_size):
        raise ValueError(f"--input_size {' '.join(map(str, config.input_size))}: expected 1 or 2 numbers of pixels")
    if config.batch_size < 1 or config.num_workers < 0:
        raise ValueError("--batch_size must be at least 1, --num_workers at least 0")
    check_output(config.out)


def labels(config: Config) -> tuple:
    """(records of --csv, the classes that their targets are indices of); (None, ()) without a table."""
    if config.csv is None:
        return None, ()
    from data.datasets.csv_table import CsvTable

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


def radiographs(config: Config, records) -> tuple[list[Path], list[int]]:
    """(the radiographs, the row of `records` that is about each; -1 where none is)."""
    import os

    from data.reading.listing import list_radiographs, passed_over_message

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
        say(f"note: {len(paths) - named:,} of {len(paths):,} radiographs are not in {config.csv}: they have no labels")
    if named < len(records):
        say(f"note: {len(records) - named:,} of {len(records):,} rows of {config.csv} are about other radiographs")
    return paths, rows


def computed(config: Config, backbone, preprocessing, paths: list, device) -> tuple[list[int], dict, list[dict]]:
    """(rows of `paths` that could be used, their features by kind, what failed)."""
    import numpy as np
    import torch

    from data.datasets.loader import ordered_batches
    from data.datasets.unlabelled import PreparedRadiographs
    from core.system.device import autocast
    from core.files import printable

    dataset = PreparedRadiographs(paths, preprocessing)
    batches = ordered_batches(
        dataset, range(len(paths)), batch_size=config.batch_size, num_workers=config.num_workers, title="features"
    )
    rows, parts, failed = [], {}, []
    backbone.eval().to(device)
    for batch in batches:
        with torch.no_grad(), autocast(device, config.precision):
            tokens = backbone.tokens(batch["image"].to(device))
        good = [i for i, reason in enumerate(batch["reason"]) if not reason]
        rows += [int(batch["row"][i]) for i in good]
        failed += [{"path": printable(paths[int(batch["row"][i])]), "reason": reason, "detail": batch["detail"][i]}
                   for i, reason in enumerate(batch["reason"]) if reason]  # fmt: skip
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
    import io

    from core.files import atomic

    buffer = io.BytesIO()
    if out.suffix == ".npz":
        import numpy as np

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
    import pandas as pd

    from core.tables import checked_names

    facts = pd.DataFrame({"path": paths})
    if records is None:
        return facts
    for name in ("patient", "target"):
        facts[name] = records[name].to_numpy()
    others = records.drop(columns=["image", "patient", "target"])
    others.columns = [f"{name} (table)" if name in ("path", *taken) else name for name in others.columns]
    checked_names(Path("--csv"), [*facts.columns, *others.columns])
    return pd.concat([facts, others.reset_index(drop=True)], axis=1)


def write_csv(buffer, facts, columns: list[str], found: dict) -> None:
    """Numbers as the shortest text that is read back as the same float32."""
    import numpy as np

    from core.tables import line_text

    buffer.write(line_text([*facts.columns, *columns]).encode())
    values = np.concatenate(list(found.values()), axis=1)
    for words, row in zip(facts.itertuples(index=False), values):
        buffer.write(f"{line_text(list(words)).rstrip(chr(10))},{','.join(row.astype(str))}\n".encode())


def write_parquet(buffer, facts, columns: list[str], found: dict) -> None:
    """With pyarrow."""
    import numpy as np
    import pandas as pd

    values = pd.DataFrame(np.concatenate(list(found.values()), axis=1), columns=columns)
    pd.concat([facts, values], axis=1).to_parquet(buffer, index=False, engine="pyarrow")


def write_about(config: Config, backbone, preprocessing, shapes: dict, classes: tuple[str, ...]) -> None:
    """What decided the numbers."""
    import json

    from models.backbones.features import weights_hash
    from core.files import write_text
    from training.run import environment

    versions = environment()
    told = {
        "model": config.model_path, "report": backbone.report, "weights_sha256": weights_hash(backbone),
        "preprocessing": preprocessing.to_dict(), "precision": config.precision, "features": shapes,
        "packages": versions["packages"], "git_revision": versions["git_revision"],
    }  # fmt: skip
    if config.csv is not None:
        told["labels"] = {"table": str(config.csv), "target": config.target_col, "classes": list(classes)}
    write_text(beside(config.out, "json"), json.dumps(told, indent=2) + "\n")


def write_failed(config: Config, failed: list[dict]) -> None:
    """NAME.failed.csv; one of an earlier run goes if nothing failed."""
    from core.tables import write_table

    path = beside(config.out, "failed.csv")
    if failed:
        write_table(path, ["path", "reason", "detail"], failed)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    run(main, Config)

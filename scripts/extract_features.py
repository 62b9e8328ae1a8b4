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
from dataclasses import dataclass
from pathlib import Path
from core.flags import flag, run, weights_flag


@dataclass
class Config:
    """Features of radiographs, from any backbone that can be read."""

    model_path: str = flag(help="backbone: alias, checkpoint folder or file, or timm name")
    out: Path = flag(help="file to write, .npz, .csv or .parquet")
    in_dirs: list[Path] = flag(
        [],
        "folders of radiographs, files, or .txt/.csv lists of files; default: those of --csv",
        alias="data_path",
    )
    csv: Path | None = flag(None, "table of labels to join, .csv or .xlsx")
    data_root: Path | None = flag(
        None, "of --csv: the folder that its paths start from; default: the table's"
    )
    image_col: str = flag("image", "of --csv: column of the paths or ids")
    target_col: str = flag("target", "of --csv: column of the labels")
    patient_col: str | None = flag(
        None, "of --csv: column of the patients; without it near-duplicates are grouped"
    )
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
    precision: str = flag(
        "fp32", "of the network", choices=("fp32", "auto", "tf32", "bf16", "fp16")
    )
    weights: str = weights_flag()


def main(config: Config) -> int:
    """Exit status: 0, or 3 if some radiographs cannot be used."""
    from workflows.features import extract

    return extract(config)


if __name__ == "__main__":
    run(main, Config)

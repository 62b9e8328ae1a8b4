"""Features of radiographs from any backbone, prepared as it was trained: class token, mean, patch tokens.

    python scripts/extract_features.py --model-path runs/dino/model --in-dirs /data/radiographs --out features.npz
    python scripts/extract_features.py --model-path dax --in-dirs A B --out features.parquet
    python scripts/extract_features.py --model-path dax-checkpoint-resnet18-version-a.pth --in-dirs A --out f.npz

The same command gives the same bytes. Beside OUT: NAME.json (network, hash of its weights, preprocessing, versions),
NAME.manifest.csv (size and sha256 of every file) and, if some cannot be used, NAME.failed.csv with the reasons; the
exit status is 3 then. An .npz holds `path` [R] and an array for each kind of feature: `cls` and `mean` [R, D], with
--patch `patch` [R, N, D]. A .parquet (needs pyarrow) has one row for each radiograph and one column for each number.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from training.cli import flag, run, weights_flag
from training.progress import bar, say


@dataclass
class Config:
    """Features of radiographs, from any backbone that can be read."""

    model_path: str = flag(help="backbone: alias, checkpoint folder or file, or timm name")
    in_dirs: list[Path] = flag(help="folders of radiographs, files, or .txt/.csv lists of files", alias="data_path")
    out: Path = flag(help="file to write, .npz or .parquet")
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
    import numpy as np

    from data.manifest import common_folder, fingerprints, name_below, write_manifest
    from data.preprocessing import Preprocessing
    from data.radiograph import list_radiographs, passed_over_message
    from models.backbones import build_backbone
    from training.device import choose_device, prepare_device
    from training.files import check_output, make_folder

    device = choose_device(config.device)
    prepare_device(device)
    size = tuple(config.input_size * 2)[:2] if config.input_size else None
    backbone = build_backbone(config.model_path, input_size=size, weights=config.weights)
    known = backbone.preprocessing
    preprocessing = Preprocessing.of(known, backbone.input_size)
    say(backbone.report)
    make_folder(config.out.parent)
    check_output(config.out)
    if not known:
        say("it does not say how pictures were prepared: min-max and the statistics of ImageNet are assumed")
    passed_over = {}
    paths = list_radiographs(config.in_dirs, recursive=config.recursive, passed_over=passed_over)
    if message := passed_over_message(passed_over):
        say(message)
    rows, found, failed = computed(config, backbone, preprocessing, paths, device)
    if not rows:
        write_failed(config, failed)
        raise ValueError(f"none of the {len(paths)} radiographs can be used; see {beside(config.out, 'failed.csv')}")
    used = [paths[row] for row in rows]
    write_features(config.out, {"path": np.array([str(path) for path in used])} | found)
    write_about(config, backbone, preprocessing, {name: list(values.shape) for name, values in found.items()})
    folder = common_folder(config.in_dirs)
    content = fingerprints(used, workers=config.num_workers, progress=bar("sha256"))
    write_manifest(beside(config.out, "manifest.csv"), {name_below(p, folder): entry for p, entry in content.items()})
    write_failed(config, failed)
    shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in found.items())
    say(f"{config.out}: {shapes}" + (f"; {len(failed)} radiographs cannot be used" if failed else ""))
    return 3 if failed else 0


def check(config: Config) -> None:
    """Refuse what could only fail later."""
    if config.out.suffix not in (".npz", ".parquet"):
        raise ValueError(f"--out {config.out}: expected a name that ends in .npz or .parquet")
    if config.out.suffix == ".parquet":
        if config.patch:
            raise ValueError("--patch: a .parquet holds one row for each radiograph; use --out NAME.npz")
        if importlib.util.find_spec("pyarrow") is None:
            raise ValueError(f"--out {config.out} needs the pyarrow package: pip install pyarrow, or use .npz")
    if config.out.exists() and not config.overwrite:
        raise FileExistsError(f"--out {config.out}: exists; --overwrite replaces it")
    if len(config.input_size) > 2 or any(side < 1 for side in config.input_size):
        raise ValueError(f"--input_size {' '.join(map(str, config.input_size))}: expected 1 or 2 numbers of pixels")
    if config.batch_size < 1 or config.num_workers < 0:
        raise ValueError("--batch_size begins with 1, --num_workers with 0")


def computed(config: Config, backbone, preprocessing, paths: list, device) -> tuple[list[int], dict, list[dict]]:
    """(rows of `paths` that could be used, their features by kind, what failed)."""
    import numpy as np
    import torch

    from data.loader import ordered_batches
    from data.unlabelled import PreparedRadiographs
    from training.device import autocast
    from training.files import printable

    dataset = PreparedRadiographs(paths, preprocessing)
    batches = ordered_batches(
        dataset, range(len(paths)), batch_size=config.batch_size, num_workers=config.num_workers, title=""
    )
    rows, parts, failed = [], {}, []
    backbone.eval().to(device)
    for batch in bar("features", "batch")(batches, total=-(-len(paths) // config.batch_size)):
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


def write_features(out: Path, arrays: dict) -> None:
    """Atomically; equal arrays give equal bytes."""
    import io

    from training.files import atomic

    buffer = io.BytesIO()
    if out.suffix == ".npz":
        import numpy as np

        np.savez(buffer, **arrays)
    else:
        import pandas as pd

        columns = {f"{name}_{i}": values[:, i] for name, values in arrays.items() if name != "path"
                   for i in range(values.shape[1])}  # fmt: skip
        pd.DataFrame({"path": arrays["path"]} | columns).to_parquet(buffer, index=False)
    with atomic(out, expected=buffer.tell()) as file:
        file.write(buffer.getbuffer())


def write_about(config: Config, backbone, preprocessing, shapes: dict) -> None:
    """What decided the numbers."""
    import json

    from models.features import weights_hash
    from training.files import write_text
    from training.run import environment

    versions = environment()
    told = {
        "model": config.model_path, "report": backbone.report, "weights_sha256": weights_hash(backbone),
        "preprocessing": preprocessing.to_dict(), "precision": config.precision, "features": shapes,
        "packages": versions["packages"], "git_revision": versions["git_revision"],
    }  # fmt: skip
    write_text(beside(config.out, "json"), json.dumps(told, indent=2) + "\n")


def write_failed(config: Config, failed: list[dict]) -> None:
    """NAME.failed.csv; one of an earlier run goes if nothing failed."""
    from training.tables import write_table

    path = beside(config.out, "failed.csv")
    if failed:
        write_table(path, ["path", "reason", "detail"], failed)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    run(main, Config)

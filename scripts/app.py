#!/usr/bin/env python
"""A web page on this machine: upload one radiograph, see what the region-guided classifier says, or its error map.

    pip install -r requirements-app.txt
    python scripts/app.py --model_path outputs/region_guided/models/fold0 --mae_path runs/mae/model
    python scripts/app.py --mae_path runs/mae/model        # error maps alone
    # then open http://127.0.0.1:7860; from elsewhere: ssh -L 7860:127.0.0.1:7860 HOST

Without data, a small network of phantoms in some minutes on a CPU:

    python scripts/make_phantoms.py --out data/BTXRD --layout btxrd --n 400 --size 160 --difficulty clear
    python scripts/make_phantoms.py --out data/SNUH-bonetu --layout snuh --n 400 --size 160 --difficulty clear
    python pretrain_mae.py --config configs/phantom_mae.yaml --data_path data/BTXRD/images --output_dir runs/mae
    python train_region_guided.py --btxrd_image_dir data/BTXRD/images --btxrd_annotation_dir data/BTXRD/Annotations \
        --btxrd_metadata data/BTXRD/dataset.xlsx --snuh_bonetu_image_dir data/SNUH-bonetu/images \
        --snuh_bonetu_metadata data/SNUH-bonetu/metadata.csv --pretrained_path runs/mae/model --epochs 20 \
        --batch_size 16 --lr 5e-4 --n_splits 3 --fold 0

PNG, JPEG, TIFF, BMP and DICOM are judged by their content. Only pixels are read; tags are neither shown nor kept, and
the names of files never leave the browser. Uploads are in memory alone and are gone once they are read; results are in
the page alone. The server connects to nobody, and tells browsers to fetch nothing from elsewhere.

A login: --auth FILE with lines USER:PASSWORD that only its owner can read (chmod 600), or the environment variable
APP_AUTH=USER:PASSWORD. Without a login only this machine is served. Exit status: 0 after Ctrl-C or SIGTERM, 2 for a
wrong flag or file.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from dataclasses import dataclass
from pathlib import Path
from core.flags import flag, run, weights_flag


@dataclass
class Config:
    """A web page on this machine: what the region-guided classifier says of one radiograph, or its error map."""

    model_path: list[Path] = flag(
        [],
        "a training's --output_dir, or folders OUTPUT/models/foldK; of several networks the mean",
    )
    mae_path: Path | None = flag(
        None,
        "masked autoencoder with its decoder, for the error map and the regions; without --model_path, maps alone",
    )
    regions: str | None = flag(
        None,
        "where to look besides the whole: the error map (the default with --mae_path), windows, none",
        choices=("map", "windows", "none"),
    )
    rule: str = flag(
        "guided",
        "how all views become one answer",
        choices=("guided", "suspicious", "mean", "whole"),
    )
    passes: int = flag(8, "how often a radiograph is masked and predicted for its error map")
    host: str = flag("127.0.0.1", "address to serve; others than this machine only with a login")
    port: int = flag(7860, "of the address")
    names: list[str] = flag(
        [], "further host names in the page's address, e.g. that of a proxy which speaks TLS"
    )
    max_mb: float = flag(100, "size limit of an upload, in MiB")
    total_mb: float = flag(
        400, "size limit of all uploads that are in memory at the same time, in MiB"
    )
    auth: Path | None = flag(
        None, "file of lines USER:PASSWORD, readable by its owner alone (or APP_AUTH)"
    )
    device: str = flag("auto", "auto, cpu, cuda or cuda:N")
    precision: str = flag(
        "fp32", "of the networks", choices=("fp32", "auto", "tf32", "bf16", "fp16")
    )
    weights: str = weights_flag()


def main(config: Config) -> int:
    """Serve until Ctrl-C or SIGTERM; 0 then."""
    from workflows.regions.web.service import serve

    return serve(config)


if __name__ == "__main__":
    run(main, Config)

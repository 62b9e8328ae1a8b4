#!/usr/bin/env python
"""Reconstructions and zero-shot error maps of radiographs by a masked autoencoder (SKELEX).

    python zero_shot_heatmap.py --model-path ./models/skelex --in-dirs /path/to/images --out /path/to/output --passes 10

    # each patch hidden equally often, in a third of the time
    ... --masks complementary --passes 4
    # how far from normal? z-scores against normal radiographs, those of the same body part where folders say so
    ... --reference /path/to/normals          # later runs: --reference /path/to/output/reference.npz
    # does the map point at the findings? masks, LabelMe, YOLO or a CSV of boxes, beside trivial maps
    ... --truth /path/to/annotations

For each radiograph OUT/<input folder>/<path below it> gets
  NAME.png            original | masked | reconstruction | error, for a few of the passes
  NAME_hotspot.png    the radiograph under its error map, with a colour bar
  NAME_error.npy      the map, float32, at the radiograph's own height and width (NaN: never seen or never hidden)
  NAME_z.npy          with --reference: standard deviations above normal
and OUT gets err_mean_summary.csv, failed.csv, index.html (open it in a browser), settings.json and records.jsonl; with
--truth also localisation.csv and localisation_summary.csv.

The map is the error of the hidden pixels, averaged over the passes in which they were hidden, on pixels in [0, 1]. A
network trained on normalised patches (norm_pix_loss) predicts no brightness; its patches get the mean and the standard
deviation of the true patch back, so its map shows texture errors only. Exit status: 0 all radiographs were read, 3 some
were not (failed.csv says why), 2 a wrong flag or file, or radiographs that are unlike the normals of --reference.
"""

import dataclasses
from pathlib import Path

from core.flags import flag, run, weights_flag


@dataclasses.dataclass
class Config:
    """Reconstructions and zero-shot error maps of radiographs by a masked autoencoder."""

    model_path: Path = flag(
        help="checkpoint folder or file of a masked autoencoder with its decoder"
    )
    in_dirs: list[Path] = flag(
        help="folders of radiographs (also files, or .txt/.csv lists of files)"
    )
    out: Path = flag(help="output folder")
    passes: int = flag(10, "how often each radiograph is masked and predicted")
    mask_ratio: float | None = flag(
        None, "fraction of the patches hidden in a pass; default: the checkpoint's"
    )
    masks: str = flag(
        "random",
        "complementary: each patch is hidden equally often",
        choices=("random", "complementary"),
    )
    l2: bool | None = flag(None, "squared error (the default)")
    l1: bool = flag(False, "absolute error instead")
    seed: int = flag(
        0, "of the masks; a radiograph's masks depend on it and on the path below the input folder"
    )
    imagenet_norm: bool = flag(
        True, "pixels get the checkpoint's mean and SD; without, they stay in [0, 1]"
    )
    scale: str | None = flag(
        None,
        "top of the colours: 99.5th percentile of all radiographs, of each radiograph, or --scale-max [cohort]",
        choices=("cohort", "image", "fixed"),
    )
    scale_max: float | None = flag(None, "value at the top of the colours with --scale fixed")
    plot_norm: bool | None = flag(
        None, "the same as --scale fixed --scale-max 1; --no-plot-norm: --scale image"
    )
    colours: str = flag("ember", "colour table of the maps", choices=("ember", "hot", "grey"))
    alpha: float = flag(0.55, "opacity of the overlay at the top of the scale, 0 to 1")
    panel_passes: int = flag(3, "passes shown in the reconstruction panel; 0 writes none")
    format: str = flag(
        "png",
        "also write the figures as this, beside the PNGs that index.html shows",
        choices=("png", "jpeg", "jpg", "pdf", "svg"),
    )
    reference: list[Path] = flag(
        [], "z-maps: folders or lists of normal radiographs, or the reference.npz of an earlier run"
    )
    group: str | None = flag(
        None,
        "the group of normals that all radiographs are compared with; default: the column group of a .csv list, the "
        "first folder below an input folder, or the input folder's name",
    )
    force_reference: bool = flag(
        False, "show z-maps also where most radiographs are unlike the normals"
    )
    truth: Path | None = flag(
        None, "findings (folder of masks, LabelMe or YOLO files, or a CSV): measures localisation"
    )
    tolerance: float = flag(
        0.0, "pointing game: pixels of the map (longer side 256) that a hit may miss by"
    )
    iou_quantile: float | None = flag(
        None, "IoU: top part of the map, e.g. 0.95; default: as large as the finding"
    )
    recursive: bool = flag(True, "also radiographs in subfolders")
    resume: bool = flag(
        False, "skip radiographs that a stopped run with the same settings has finished"
    )
    overwrite: bool = flag(False, "replace results in OUT that were made with other settings")
    device: str = flag("auto", "auto, cpu, cuda or cuda:N")
    precision: str = flag(
        "fp32", "of the network", choices=("fp32", "auto", "tf32", "bf16", "fp16")
    )
    strict_fp32: bool = flag(
        False, "fp32 on a CPU with the default instead of the fastest matrix library"
    )
    batch_size: int = flag(32, "views (masked copies) that go through the network together")
    num_workers: int = flag(2, "threads that read and draw ahead")
    weights: str = weights_flag()


def main(config: Config) -> int:
    """Measure, draw, report; 3 if a radiograph could not be read, else 0."""
    from workflows.heatmaps.maps import draw_maps

    return draw_maps(config)


if __name__ == "__main__":
    run(main, Config)

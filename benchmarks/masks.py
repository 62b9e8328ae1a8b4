"""How many masked passes does a heat map need? Random and complementary masks against 40 random ones.

    python benchmarks/masks.py --model-path ./models/skelex --in-dirs /path/to/images
    python benchmarks/masks.py --model-path demo/mae/model --in-dirs demo/test/images --truth demo/test/records.csv

Prints a JSON line for each way of masking: correlation of the map's pixels with those of 40 random passes (mean and
lowest over the radiographs), how much the mean error of a radiograph hangs on the seed (standard deviation over seeds /
mean), and with --truth the pixel AUROC of the findings and its difference from that of 40 random passes, with 95 %
intervals, all on the same radiographs.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from dataclasses import dataclass
from pathlib import Path

from core.flags import flag, run
from core.progress import bar

WAYS = {
    "random, 4 passes": (4, "random"),
    "random, 10 passes": (10, "random"),
    "random, 40 passes": (40, "random"),
    "complementary, 4 passes": (4, "complementary"),
    "complementary, 8 passes": (8, "complementary"),
    "complementary, 12 passes": (12, "complementary"),
}
YARDSTICK = "random, 40 passes"
SEEDS = 4


@dataclass
class Config:
    """Compare masks for heat maps."""

    model_path: Path = flag(
        help="checkpoint folder or file of a masked autoencoder with its decoder"
    )
    in_dirs: list[Path] = flag(help="folders of radiographs")
    truth: Path | None = flag(None, "findings, as for zero_shot_heatmap.py")
    images: int = flag(32, "radiographs, evenly chosen; with --truth among those with a finding")
    device: str = flag("auto", "auto, cpu, cuda or cuda:N")


def main(config: Config) -> int:
    """Print one line for each way of masking."""
    import json

    import numpy as np

    from data.views.preprocessing import Preprocessing
    from data.datasets.truth import read_truth
    from evaluation.statistics.intervals import mean_interval
    from evaluation.maps.localisation import localisation_scores
    from models.weights.checkpoint import load_mae
    from core.system.device import choose_device, prepare_device

    device = choose_device(config.device)
    prepare_device(device)
    loaded = load_mae(config.model_path)
    network = loaded.model.to(device)
    preprocessing = Preprocessing.from_dict(loaded.preprocessor)
    truth = None if config.truth is None else read_truth(config.truth)
    rows: dict[str, list] = {way: [] for way in WAYS}
    aurocs: dict[str, list] = {way: [] for way in WAYS}
    for path, pixels, finding in bar("maps", "radiograph")(chosen(config, preprocessing, truth)):
        image = preprocessing.normalise(preprocessing.fit(pixels)[None]).to(device)
        yardstick = error_map(network, preprocessing, image, 40, "random", f"yardstick {path}")
        for way, (passes, masks) in WAYS.items():
            maps = [
                error_map(network, preprocessing, image, passes, masks, f"{s} {path}")
                for s in range(SEEDS)
            ]
            means = [one.mean() for one in maps]
            correlation = np.corrcoef(yardstick.ravel(), maps[0].ravel())[0, 1]
            rows[way].append((correlation, np.std(means, ddof=1) / np.mean(means)))
            if finding is not None:
                small = preprocessing.forward_map(finding)
                aurocs[way].append(
                    localisation_scores(maps[0], small)["pixel_auroc"] if small.any() else np.nan
                )
    for way, values in rows.items():
        correlations, spreads = np.array(values).T
        row = {
            "case": f"{len(values)} radiographs",
            "masks": way,
            "correlation": round(float(correlations.mean()), 4),
        }
        row |= {
            "lowest": round(float(correlations.min()), 4),
            "seed": round(float(np.sqrt((spreads**2).mean())), 4),
        }
        if truth:
            groups = [str(number) for number in range(len(aurocs[way]))]
            interval = mean_interval(aurocs[way], groups, limits=(0.0, 1.0))
            paired = np.subtract(aurocs[way], aurocs[YARDSTICK])
            worse = mean_interval(paired, groups)
            row |= {
                "auroc": str(interval),
                "difference": round(worse.estimate, 4),
                "difference_interval": str(worse),
            }
        print(json.dumps(row), flush=True)
    return 0


def chosen(config: Config, preprocessing, truth) -> list[tuple]:
    """(path, pixels, mask of the finding or None) of radiographs that can be read, evenly chosen."""
    from data.reading.refusal import UnreadableRadiograph
    from data.reading.radiograph import list_radiographs

    paths = list_radiographs(config.in_dirs)
    if truth is not None:
        paths = [
            path for path in paths if truth.mentions(path) and truth.condition(path) != "normal"
        ]
    step = max(1, len(paths) // config.images)
    found = []
    for path in paths[::step][: config.images]:
        try:
            pixels = preprocessing.read(path)
        except UnreadableRadiograph as error:
            print(error, file=sys.stderr)
            continue
        finding = None if truth is None else truth.lookup(path, pixels.shape[:2])
        if truth is None or (finding is not None and finding.any()):
            found.append((path, pixels, finding))
    if not found:
        raise ValueError(f"{', '.join(map(str, config.in_dirs))}: no radiograph that can be used")
    return found


def error_map(network, preprocessing, image, passes: int, masks: str, name: str):
    """The map [h, w] of one radiograph."""
    from evaluation.maps.error_maps import error_maps, mask_generator, visible_patches

    visible = visible_patches(
        passes, network.grid, network.config.visible, mask_generator(0, name), masks
    )
    return error_maps(
        network, image, visible[None], mean=preprocessing.mean, std=preprocessing.std
    ).maps[0]


if __name__ == "__main__":
    run(main, Config)

"""Radiographs of one training epoch, augmented, out of memory, against decoding each of them again in every epoch.

    python benchmarks/loader.py --size 2500 --files 16 --rounds 3

The yardstick does what the fine-tuning script of SKELEX does with Pillow and torchvision: decode, stretch to 8 bits,
three channels, rotate at full size, resize, flip, change brightness and contrast, normalise. Ours is the labelled data
set with the same augmentation, from `KeptRadiographs` and once from files, through the loader of the training loop. All
run in this process, as each loader process would. Ours hands on one channel of 8 bits, which the network's device
normalises; "normalised, too" does it here. Without augmentation both end within one grey level.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import tempfile
from dataclasses import dataclass
from pathlib import Path

from core.flags import flag, run

FORMATS = ("16-bit PNG", "8-bit PNG", "grey JPEG", "RGB JPEG")
YARDSTICK = "decoded every epoch, torchvision"


@dataclass
class Config:
    """Time the radiographs of an epoch, from memory and from files."""

    size: int = flag(2500, "long side of the phantom radiographs in pixels")
    files: int = flag(16, "radiographs, and batch size")
    epochs: int = flag(16, "epochs of ours from memory in a round; of the others one")
    rounds: int = flag(3, "rounds; in each, every variant loads its epochs")


def main(config: Config) -> int:
    """Print one line for each format and variant."""
    from functools import partial
    from statistics import median

    import torch

    from benchmarks.paired import report, seconds_of
    from benchmarks.reader import check_equal

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files_of, megapixels = written(Path(folder), config)
        for kind, paths in files_of.items():
            check_equal(kind, paths[0])
            theirs = decoded_batches(paths)
            files = our_batches(paths)
            memory = our_batches(paths, kept=True)
            variants = {
                YARDSTICK: partial(consumed, theirs, 1),
                "ours, from files": partial(consumed, files, 1),
                "ours, from memory": partial(consumed, memory, config.epochs),
                "ours, from memory, normalised, too": partial(normalised, memory, config.epochs),
            }
            seen = {
                name: len(paths) * (config.epochs if "memory" in name else 1) for name in variants
            }
            seconds = seconds_of(variants, config.rounds)
            seconds = {
                name: [time / seen[name] for time in times] for name, times in seconds.items()
            }
            rates = {name: 1 / median(times) for name, times in seconds.items()}
            report(
                f"{kind}, {megapixels:.1f} megapixels",
                seconds,
                YARDSTICK,
                radiographs_per_second=rates,
            )
    return 0


def written(folder: Path, config: Config) -> tuple[dict[str, list[Path]], float]:
    """{format: files} with the same phantom radiographs of all regions, and how many million pixels they have."""
    from PIL import Image

    from phantoms.study import eight_bit
    from phantoms.plan import Plan, phantoms

    files: dict[str, list[Path]] = {kind: [] for kind in FORMATS}
    megapixels = 0.0
    for number, phantom in enumerate(phantoms(Plan(0, config.size, "hard", (), ()), config.files)):
        megapixels += phantom.pixels.size / config.files / 1e6
        grey = Image.fromarray(eight_bit(phantom))
        pictures = {
            "16-bit PNG": ("deep.png", Image.fromarray(phantom.pixels)),
            "8-bit PNG": ("grey.png", grey),
            "grey JPEG": ("grey.jpg", grey),
            "RGB JPEG": ("rgb.jpg", Image.merge("RGB", [grey] * 3)),
        }
        for kind, (name, picture) in pictures.items():
            path = folder / f"{number}_{name}"
            picture.save(path, **({"quality": 92} if path.suffix == ".jpg" else {}))
            files[kind].append(path)
    return files, megapixels


def decoded_batches(paths: list[Path]):
    """epochs -> batches as the published script loads them: {"image": [B, 3, 224, 224]}."""
    import numpy as np
    from PIL import Image, ImageOps
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    change = transforms.Compose(
        [
            transforms.RandomRotation(10),
            transforms.Resize((224, 224)),
            transforms.RandomHorizontalFlip(0.5),
            transforms.ColorJitter(brightness=0.2, contrast=0.2),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )

    class Decoded(Dataset):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, row: int) -> dict:
            with Image.open(paths[row]) as picture:
                pixels = np.asarray(ImageOps.exif_transpose(picture)).astype(np.float32)
            low = pixels.min()
            high = pixels.max()
            pixels = ((pixels - low) / (high - low) * 255).astype(np.uint8)
            return {"image": change(Image.fromarray(pixels).convert("RGB")), "target": 0.0}

    def batches(epochs: int):
        for _ in range(epochs):
            yield from DataLoader(Decoded(), batch_size=len(paths), shuffle=True)

    return batches


def our_batches(paths: list[Path], kept: bool = False):
    """epochs -> batches of the training loop: {"image": [B, 1, 224, 224] uint8}; from memory if `kept`."""
    import pandas as pd

    from data.datasets.dataset import RadiographDataset
    from data.datasets.kept_radiographs import KeptRadiographs
    from data.datasets.loader import step_batches
    from data.views.preprocessing import Preprocessing
    from data.views.augmentation import RotateFlipJitter
    from training.sampling import Plan

    preprocessing = Preprocessing()
    names = list(map(str, paths))
    memory = KeptRadiographs(names, preprocessing, limit_gb=1).fill() if kept else False
    records = pd.DataFrame({"image": names, "target": 0.0})
    dataset = RadiographDataset(
        records, preprocessing, RotateFlipJitter(preprocessing), keep=memory
    )

    def batches(epochs: int):
        plan = Plan(len(paths), len(paths), epochs=epochs)
        return step_batches(dataset, plan, seed=0, rank=0, num_workers=0)(0)

    return batches


def consumed(batches, epochs: int) -> None:
    """Take all of some epochs."""
    for _ in batches(epochs):
        pass


def normalised(batches, epochs: int) -> None:
    """Take all of some epochs, as the network sees them: [B, 3, 224, 224] float32; in a training process."""
    import torch

    from data.views.preprocessing import Preprocessing
    from core.system.device import prepare_device, return_freed_memory

    preprocessing = Preprocessing()
    prepare_device(torch.device("cpu"))
    for batch in batches(epochs):
        preprocessing.normalise(batch["image"])
    return_freed_memory()


if __name__ == "__main__":
    run(main, Config)

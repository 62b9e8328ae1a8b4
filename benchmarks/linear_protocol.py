"""A whole `--protocol linear` run of 5 folds against a frozen encoder that is run anew in every epoch of every fold.

    python benchmarks/linear_protocol.py --size base --radiographs 200 --rounds 2

Ours is the command itself on phantoms in the layout of FracAtlas: start-up, every check of the data, one pass through
the encoder, a linear model for each fold, statistics and page. The yardstick is what the fine-tuning script of SKELEX
does with a frozen encoder: decode, augment and run transformers' network in float32 on all training radiographs, and on
those of the validation without augmentation, in each of 50 epochs of each fold; at its end on the test set. A part of
that is measured, and the rest reckoned from it:

    seconds = folds x (epochs x (training x seconds to train on one + validation x seconds to predict one)
                       + test x seconds to predict one)

Both have the same weights, and their features are compared first. Processor time, of all processes of the command.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import tempfile
from dataclasses import dataclass
from pathlib import Path

from core.flags import flag, run

YARDSTICK = "encoder in every epoch, reckoned"
OURS = {"ours": "auto", "ours, fp32": "fp32"}
FOLDS = 5
TOLERANCE = (
    0.02  # of features of unit variance, between two ways to resize and stretch 8-bit pixels
)


@dataclass
class Config:
    """Time a whole linear-probe benchmark."""

    size: str = flag("base", "encoder size (224 pixels, random weights)")
    radiographs: int = flag(200, "phantoms in the layout of FracAtlas")
    pixels: int = flag(1000, "long side of a radiograph")
    epochs: int = flag(50, "epochs of the yardstick in each fold")
    measured: int = flag(32, "radiographs that the yardstick trains on and predicts in a round")
    rounds: int = flag(2, "rounds; in each, the command runs once in each precision")


def main(config: Config) -> int:
    """Print one line for each variant."""
    import torch

    from benchmarks.paired import report

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(config, Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in (YARDSTICK, *OURS)}
        parts: list[tuple[float, float]] = []
        for number in range(config.rounds):
            for name, precision in list(OURS.items())[:: -1 if number % 2 else 1]:
                seconds[name].append(bench.command(precision))
            parts.append((bench.trained(), bench.predicted()))
            seconds[YARDSTICK].append(bench.reckoned(*parts[-1]))
        bench.check_equal()
        report(f"ViT-{config.size}, {bench.described()}", seconds, YARDSTICK)
        each = {
            "train on one": [train for train, _ in parts],
            "predict one": [predict for _, predict in parts],
        }
        report("yardstick, measured", each, "train on one")
    return 0


class Bench:
    """A data set, an encoder, and what is done with them."""

    def __init__(self, config: Config, folder: Path):
        import torch
        from transformers import ViTConfig, ViTForImageClassification

        from phantoms.layouts.registry import WRITERS
        from phantoms.plan import Plan, phantoms
        from models.networks.vit import SIZES

        self.config = config
        self.folder = folder
        self.root = folder / "FracAtlas"
        writer = WRITERS["fracatlas"](self.root, "jpeg", 0)
        regions = ("hand", "knee", "ankle", "shoulder")
        plan = Plan(0, config.pixels, "hard", regions, ("normal", "fracture"), 0.3)
        for phantom in phantoms(plan, config.radiographs):
            writer.add(phantom)
        writer.close()
        torch.manual_seed(0)
        width, depth, heads = SIZES[config.size]
        self.network = ViTForImageClassification(
            ViTConfig(
                hidden_size=width,
                num_hidden_layers=depth,
                num_attention_heads=heads,
                intermediate_size=4 * width,
                num_labels=1,
            )
        )
        self.network.save_pretrained(folder / "encoder")
        self.network.vit.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.network.classifier.parameters(), lr=1e-4)

    def command(self, precision: str) -> float:
        """Seconds of scripts/train_downstream.py from its start to its end."""
        import os
        import resource
        import shutil
        import subprocess

        script = Path(__file__).resolve().parents[1] / "scripts" / "train_downstream.py"
        self.out = self.folder / "runs" / precision
        shutil.rmtree(self.out, ignore_errors=True)
        given = {
            "data": "fracatlas",
            "data_root": self.root,
            "backbones": self.folder / "encoder",
            "cv": FOLDS,
            "protocol": "linear",
            "outdir": self.out,
            "num_workers": 0,
            "device": "cpu",
            "precision": precision,
        }
        flags = [str(part) for name, value in given.items() for part in (f"--{name}", value)]
        begin = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, str(script), *flags, "--no-verbose"],
            check=True,
            capture_output=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        return end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime

    def files(self) -> list[Path]:
        """The radiographs that the yardstick is measured on."""
        return sorted(self.root.rglob("*.jpg"))[: self.config.measured]

    def trained(self) -> float:
        """Seconds to train on one radiograph, measured."""
        import time

        import torch

        from benchmarks.loader import decoded_batches
        from benchmarks.steps import as_installed

        as_installed()
        self.network.train()
        begin = time.process_time()
        for batch in decoded_batches(self.files())(1):
            logits = self.network(batch["image"]).logits[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, batch["target"].float()
            )
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return (time.process_time() - begin) / len(self.files())

    def predicted(self) -> float:
        """Seconds to predict one radiograph, measured."""
        import time

        import torch

        from benchmarks.steps import as_installed

        as_installed()
        self.network.eval()
        begin = time.process_time()
        with torch.no_grad():
            self.network(self.inputs())
        return (time.process_time() - begin) / len(self.files())

    def inputs(self):
        """The yardstick's radiographs without augmentation, [B, 3, 224, 224]."""
        import torch

        from benchmarks.reader import plainly

        return torch.stack([plainly(path) for path in self.files()])

    def counts(self) -> tuple[float, float, int]:
        """Radiographs to train on and to validate with, in the mean fold, and to test with, out of splits.csv."""
        from core.tables import read_rows

        rows = read_rows(self.out / "fracatlas" / "splits.csv", ["path", "split"])
        count = {
            split: sum(row["split"] == split for row in rows) for split in ("train", "val", "test")
        }
        tests = len({row["path"] for row in rows if row["split"] == "test"})
        return count["train"] / FOLDS, count["val"] / FOLDS, tests

    def reckoned(self, train_seconds: float, predict_seconds: float) -> float:
        """Seconds of the yardstick's whole run, from those for one radiograph."""
        train, val, test = self.counts()
        epoch = train * train_seconds + val * predict_seconds
        return FOLDS * (self.config.epochs * epoch + test * predict_seconds)

    def described(self) -> str:
        train, val, test = self.counts()
        return f"{FOLDS} folds of {train:.0f} + {val:.0f} and {test} radiographs, {self.config.epochs} epochs"

    def check_equal(self) -> None:
        """Ours computed the features of the same network from the same radiographs."""
        import numpy as np
        import torch

        from models.backbones.features import file_key

        with np.load(next((self.folder / "runs" / "fp32").rglob("features-*.npz"))) as archive:
            ours = dict(zip(archive["keys"].astype(str).tolist(), archive["values"]))
        self.network.eval()
        with torch.no_grad():
            theirs = self.network.vit(self.inputs()).last_hidden_state[:, 0].numpy()
        difference = max(
            float(np.abs(ours[file_key(path)] - row).max())
            for path, row in zip(self.files(), theirs)
        )
        if difference > TOLERANCE:
            raise AssertionError(f"the features differ by {difference:.3g}")


if __name__ == "__main__":
    run(main, Config)

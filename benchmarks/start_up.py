"""How long a command takes to answer: `--help` of each script, and the import of what the scripts could import at once.

    python benchmarks/start_up.py --rounds 5

The yardstick is a script that imports torch, torchvision, timm, transformers, pandas, scikit-learn and pyplot at its
top, as research code often does. Seconds on the wall of whole processes.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from dataclasses import dataclass

from core.flags import flag, run

EAGER = (
    "import argparse, torch, torchvision, timm, transformers, pandas, sklearn.metrics, matplotlib.pyplot;"
    "from transformers import ViTMAEForPreTraining; argparse.ArgumentParser()"
)
SCRIPTS = (
    "pretrain_mae.py",
    "zero_shot_heatmap.py",
    "scripts/train_downstream.py",
    "scripts/convert_checkpoint.py",
    "scripts/make_phantoms.py",
)


@dataclass
class Config:
    """Time how fast the scripts answer."""

    rounds: int = flag(5, "rounds; in each, every command runs once")


def main(config: Config) -> int:
    """Print one line for each command."""
    import subprocess
    import time

    from benchmarks.paired import report, seconds_of

    root = pathlib.Path(__file__).resolve().parents[1]
    commands = {
        "everything imported at the top": ["-c", EAGER],
        "torch alone": ["-c", "import torch"],
    }
    commands |= {f"{script} --help": [str(root / script), "--help"] for script in SCRIPTS}
    variants = {
        name: lambda given=given: subprocess.run(
            [sys.executable, *given], check=True, capture_output=True
        )
        for name, given in commands.items()
    }
    seconds = seconds_of(variants, config.rounds, time.perf_counter)
    report("start-up", seconds, "everything imported at the top")
    return 0


if __name__ == "__main__":
    run(main, Config)

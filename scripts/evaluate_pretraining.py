"""Does pretraining pay? Reconstruction, localisation, probes and few-label fine-tuning, each beside its baselines.

    python scripts/evaluate_pretraining.py --model_path runs/mae/model --train phantoms/train --test phantoms/test \
        --out runs/mae/evaluation

`--train` and `--test` are folders of `scripts/make_phantoms.py --layout folder` (records.csv, images, masks) with
different patients. Nothing is chosen on the test folder. Writes index.html, whose first line says what came out,
results.csv (one row per figure, with 95 % intervals over patients), results.md and comparisons.csv (paired
differences), and prints the tables and what came out.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from dataclasses import dataclass
from core.flags import flag, run, weights_flag

STARTS = ("pretrained", "from scratch")
PARTS = ("reconstruction", "localisation", "probes", "dense", "finetune")


@dataclass
class Config:
    """Evaluate a pretrained masked autoencoder on labelled phantoms, beside the baselines that keep one honest."""

    model_path: str = flag(help="checkpoint folder of pretrain_mae.py (OUTPUT_DIR/model)")
    train: str = flag(help="folder of labelled phantoms to learn from")
    test: str = flag(help="folder of labelled phantoms of other patients to score on")
    out: str = flag(help="folder for index.html, results.csv, results.md and comparisons.csv")
    parts: list[str] = flag(list(PARTS), "what to measure: " + ", ".join(PARTS))
    tasks: list[str] = flag(
        ["implant", "tumour", "bone_age"], "tasks of the probes and of fine-tuning"
    )
    labels: list[int] = flag([50, 200, 1000], "numbers of labelled radiographs to fine-tune with")
    starts: list[str] = flag(list(STARTS), "what to fine-tune: " + ", ".join(STARTS))
    steps: int = flag(400, "optimizer steps of each fine-tuning")
    batch_size: int = flag(32, "radiographs per step of fine-tuning")
    lr: float = flag(1e-3, "peak learning rate of fine-tuning, for both starts")
    layer_decay: float = flag(
        0.75, "learning-rate decay per block when starting from pretrained weights"
    )
    passes: int = flag(12, "masked passes of the error maps (complementary masks)")
    most_maps: int = flag(
        150, "radiographs with a finding to localise, and half as many for reconstruction"
    )
    seed: int = flag(0, "draws the labelled subsets, masks, untrained networks and intervals")
    device: str = flag("auto", "auto, cpu, cuda or cuda:N")
    precision: str = flag("auto", "of fine-tuning and features: auto, fp32, tf32, bf16 or fp16")
    weights: str = weights_flag()


def main(config: Config) -> int:
    from workflows.evidence.pretraining import evaluate

    return evaluate(config)


if __name__ == "__main__":
    run(main, Config)

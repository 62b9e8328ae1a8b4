"""Runs every benchmark and writes benchmarks/README.md: machine, tables with ratios first, and what they mean.

    bash scripts/demo.sh                        # the network and the findings for the part on masks
    python benchmarks/run_all.py --demo demo    # about an hour on one quiet core
    python benchmarks/run_all.py --quick --out /tmp/benchmarks.md      # tiny networks: does everything run?

Run it when nothing else runs. What was measured is kept in results.json beside the page; `--only` measures some parts
again. The text comes from this file; figures are never edited by hand. Each goal is set against
what was measured; where one is missed, the page says what stands in the way.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from dataclasses import dataclass
from pathlib import Path

from benchmarks.goals import GOALS
from core.flags import flag, run

ROOT = Path(__file__).resolve().parents[1]
FULL = {
    "mae_step.py": ["--rounds", "5"],
    "heatmap.py": ["--rounds", "2"],
    "reader.py": ["--rounds", "5"],
    "finetune_step.py": ["--rounds", "3"],
    "bone_age_step.py": ["--rounds", "3"],
    "dino_step.py": ["--batch_size", "2", "--rounds", "3"],
    "linear_protocol.py": ["--rounds", "2"],
    "loader.py": ["--rounds", "3"],
    "start_up.py": ["--rounds", "5"],
    "masks.py": ["--images", "80"],
}
QUICK = {
    "mae_step.py": ["--rounds", "1", "--sizes", "mini", "--batch_size", "2", "--compile", "none"],
    "heatmap.py": "--rounds 1 --size mini --images 1 --height 600 --width 450 --passes 4".split(),
    "reader.py": ["--rounds", "1", "--height", "400", "--width", "300", "--files", "1"],
    "finetune_step.py": [
        "--rounds",
        "1",
        "--sizes",
        "mini",
        "--batch_size",
        "2",
        "--compile",
        "none",
    ],
    "bone_age_step.py": ["--rounds", "1", "--side", "64"],
    "dino_step.py": "--arch vit_mini --global_size 64 --local_size 32 --local_crops_number 2 --out_dim 64 "
    "--batch_size 2 --rounds 1".split(),
    "linear_protocol.py": "--rounds 1 --size mini --radiographs 60 --pixels 64 --measured 2".split(),
    "loader.py": "--rounds 1 --size 200 --files 2 --epochs 2".split(),
    "start_up.py": ["--rounds", "1"],
    "masks.py": ["--images", "2"],
}
SECTIONS = {
    "mae_step.py": (
        "One pretraining step",
        "Forward, backward and AdamW at 224 pixels, mask ratio 0.75, one thread; the same weights, radiographs and "
        "masks, loss and gradients compared first. Ratios to transformers' `ViTMAEForPreTraining` in float32 as "
        "installed; the last columns: to transformers in the same precision, and the share of the peak of matrix "
        "products measured in the same round.",
    ),
    "heatmap.py": (
        "Error maps of a folder",
        "Files to index.html on one thread, without the loading of the network, against a loop over radiographs and "
        "passes with matplotlib figures. With the same masks the maps agree within 1e-5. Outside the network: all but "
        "the network, which answers at once; reading, drawing and writing happen in two threads beside it.",
    ),
    "reader.py": (
        "Reading a radiograph",
        "2500 x 2000 pixels, file to network input, against Pillow with a min-max in floats at full size; results "
        "agree within one grey level. Decoding alone is the limit.",
    ),
    "finetune_step.py": (
        "One fine-tuning step",
        "Forward, loss, backward and AdamW with layer decay at 224 pixels, one thread; the same weights and "
        "radiographs, loss and gradients compared first. Against a plain loop over transformers' "
        "`ViTForImageClassification` in float32 as installed; ours is the backbone, the head and the loop of "
        "`scripts/train_downstream.py`, which makes of the last block only the class token. Columns as above.",
    ),
    "bone_age_step.py": (
        "Bone age",
        "A training step (forward, hybrid loss, backward, clipping, AdamW) and a prediction at 512 pixels with "
        "ConvNeXt-T, one thread; the same weights and radiographs, loss, gradients and months compared first. Against "
        "plain loops over torchvision's network in float32 as installed; ours are the networks and the loop of "
        "`scripts/train_bone_age.py`, from 8-bit radiographs on. Columns as above.",
    ),
    "dino_step.py": (
        "One step of DINO",
        "Both networks, loss, backward, clipping, AdamW and the running average, one thread; the same weights and "
        "views, loss and gradients compared first. Against a straightforward step: a softmax for every pair of views, "
        "one parameter after the other clipped and averaged, the last block for all tokens, float32, PyTorch as "
        "installed. Columns as above.",
    ),
    "linear_protocol.py": (
        "A whole run with a frozen encoder",
        "Five folds on phantoms in the layout of FracAtlas, one thread, processor time of all processes. Ours is "
        "`scripts/train_downstream.py --protocol linear` from its start to its page. The yardstick decodes, augments "
        "and runs the frozen encoder (transformers, float32) in each of 50 epochs of each fold. **Its seconds are "
        "reckoned, not measured:** folds x (epochs x (training x seconds to train on one + validation x seconds to "
        "predict one) + test x seconds to predict one). Measured, in the same round, are the seconds for one "
        "radiograph in the second table.",
    ),
    "loader.py": (
        "The radiographs of an epoch",
        "Phantoms of 2,500 pixels on their long side, all augmentations of fine-tuning, one process; seconds for one "
        "radiograph. Against decoding in every epoch with the transforms of SKELEX (Pillow, torchvision; rotation at "
        "full size). From memory: they were decoded once before, which is not counted here and costs a little less "
        'than "from files" does. Ours hands on one channel of 8 bits; "normalised, too" makes three channels in '
        "float32 of it, which in training is part of the step above.",
    ),
    "start_up.py": ("Start-up", "Whole processes, time on the wall."),
    "masks.py": (
        "How many passes a map needs",
        "The network and the test radiographs with findings of `scripts/demo.sh`. Correlation of a map's pixels with "
        "40 random passes (mean, and lowest radiograph), how much the mean error of a radiograph hangs on the seed "
        "(standard deviation / mean over four seeds), pixel AUROC of the findings, and its difference from that of 40 "
        "random passes, with 95 % intervals.",
    ),
}


@dataclass
class Config:
    """Run every benchmark and write the page of results."""

    out: Path = flag(ROOT / "benchmarks" / "README.md", "page to write")
    demo: Path | None = flag(
        None, "what scripts/demo.sh made, for the part on masks, which is left out without it"
    )
    only: list[str] = flag(
        [], "measure these parts alone, e.g. loader.py; the others stay as results.json has them"
    )
    quick: bool = flag(
        False, "tiny networks and one round: shows that everything runs, not how fast"
    )


def main(config: Config) -> int:
    """Write the page; figures of the run go to the screen as they come."""
    import json

    from benchmarks.paired import machine
    from core.files import write_text

    chosen = dict(QUICK if config.quick else FULL)
    if unknown := sorted(set(config.only) - set(chosen)):
        raise ValueError(f"--only {unknown[0]}: choices {', '.join(chosen)}")
    kept = config.out.with_name("results.json")
    results = json.loads(kept.read_text(encoding="utf-8")) if config.only and kept.is_file() else {}
    for script, given in chosen.items():
        if config.only and script not in config.only:
            continue
        if script == "masks.py":
            if config.demo is None:
                continue
            given = [*inputs_of(config.demo), *given]
        print(f"{script} {' '.join(given)}", flush=True)
        found = rows_of(script, given)
        print(tables(found), flush=True)
        results[script] = {"given": given, "machine": machine(), "rows": found}
    write_text(kept, json.dumps(results, indent=1) + "\n")
    write_text(config.out, page_of(results))
    print(f"written: {config.out}")
    return 0


def page_of(results: dict[str, dict]) -> str:
    """The page from what was measured: script -> flags given, machine, rows."""
    first = next(iter(results.values()))["machine"]
    parts = []
    rows = []
    for script, (title, text) in SECTIONS.items():
        if script not in results:
            told = "`--demo` was not given" if script == "masks.py" else "not among `--only`"
            parts.append(f"## {title}\n\n{text}\n\nLeft out: {told}.\n")
            continue
        part = results[script]
        other = [
            f"{name} {value}" for name, value in part["machine"].items() if first.get(name) != value
        ]
        note = f"Measured with another machine or version: {', '.join(other)}.\n\n" if other else ""
        command = f"python benchmarks/{script} {' '.join(part['given'])}"
        parts.append(f"## {title}\n\n`{command}`\n\n{text}\n\n{note}{tables(part['rows'])}")
        rows += [{"script": script} | row for row in part["rows"]]
    facts = "\n".join(f"* {name}: {value}" for name, value in first.items())
    return f"# Benchmarks\n\n{INTRODUCTION}\n{facts}\n\n" + "\n".join(parts) + "\n" + goals(rows)


INTRODUCTION = """\
Written by `python benchmarks/run_all.py`. Within a round the variants take turns, in alternating order; a ratio is of
one round, given as median [lowest, highest]; more than 1 is faster. Processor time of one thread where nothing else is
said, so that a busy machine changes little. What was hoped for, and what stands in the way, is at the end. The machine
of this run:
"""


def inputs_of(demo: Path) -> list[str]:
    """The flags of masks.py for what `scripts/demo.sh` made."""
    flags = {"--model-path": "mae/model", "--in-dirs": "test/images", "--truth": "test/records.csv"}
    for name in flags.values():
        if not (demo / name).exists():
            raise FileNotFoundError(
                f"{demo / name} does not exist: make it with `bash scripts/demo.sh {demo}`"
            )
    return [part for given, name in flags.items() for part in (given, str(demo / name))]


def rows_of(script: str, given: list[str]) -> list[dict]:
    """What a benchmark printed; its progress bar and its complaints go to the screen."""
    import json
    import subprocess

    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *given],
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise ValueError(
            f"benchmarks/{script} ended with status {done.returncode}; its message is above"
        )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def tables(rows: list[dict]) -> str:
    """Markdown tables of the lines that a benchmark printed, one for each case."""
    peaks = [
        f"{row['peak']} {row['gflops']} GFLOP/s ({row['case']})" for row in rows if "peak" in row
    ]
    text = ""
    for case in dict.fromkeys(row["case"] for row in rows if "peak" not in row):
        mine = [row for row in rows if row["case"] == case and "peak" not in row]
        extra = [key for key in EXTRA if any(key in row for row in mine)]
        timed = "variant" in mine[0]
        head = [case, *(("ratio", "seconds") if timed else ()), *(EXTRA[key][0] for key in extra)]
        lines = [head, ["---"] * len(head)]
        for row in mine:
            cells = [row["variant" if timed else "masks"]]
            if timed:
                spread = f"**{row['ratio']:.2f}** [{row['low']:.2f}, {row['high']:.2f}]"
                cells += [
                    "1" if row["ratio"] == row["low"] == row["high"] == 1 else spread,
                    f"{row['seconds']:.3g}",
                ]
            lines.append(
                cells + [EXTRA[key][1].format(row[key]) if key in row else "" for key in extra]
            )
        text += "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n\n"
    return text + (f"Peaks of matrix products: {'; '.join(peaks)}.\n" if peaks else "")


EXTRA = {
    "radiographs_per_second": ("radiographs / s", "{:.3g}"),
    "against_same_precision": ("same precision", "{:.2f}"),
    "peak_share": ("share of peak", "{:.0%}"),
    "correlation": ("correlation", "{:.3f}"),
    "lowest": ("lowest", "{:.3f}"),
    "seed": ("seed", "{:.1%}"),
    "auroc": ("pixel AUROC", "{}"),
    "difference_interval": ("against 40 random passes", "{}"),
}


def goals(rows: list[dict]) -> str:
    """The goals and what was reached, and for those that were missed what stands in the way."""
    lines = [["case", "variant", "figure", "goal", "measured", ""], ["---"] * 6]
    missed = {}
    for goal in GOALS:
        for row in rows:
            mine = (
                row.get("variant", row.get("masks")) == goal.variant
                and row["script"] == goal.script
            )
            if not (mine and goal.key in row and row["case"].startswith(goal.case)):
                continue
            name, form = EXTRA.get(goal.key, (goal.key, "{:.2f}"))
            sign = "<=" if goal.at_most else ">="
            good = goal.reached(row[goal.key])
            figures = (f"{sign} {form.format(goal.value)}", form.format(row[goal.key]))
            lines.append(
                [row["case"], goal.variant, name, *figures, "reached" if good else "**missed**"]
            )
            if not good:
                missed.setdefault(goal.missed, []).append(
                    f"{name} of {goal.variant} ({row['case']})"
                )
    text = "## Goals\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
    return text + "".join(f"\n* {'; '.join(which)}: {why}\n" for why, which in missed.items())


if __name__ == "__main__":
    run(main, Config)

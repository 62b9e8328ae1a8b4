"""Runs every benchmark and writes benchmarks/README.md: machine, tables with ratios first, and what they mean.

    python benchmarks/run_all.py                # about half an hour on one quiet core
    python benchmarks/run_all.py --quick --out /tmp/benchmarks.md      # tiny networks: does everything run?

Run it when nothing else runs. The text comes from this file; figures are never edited by hand.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from dataclasses import dataclass
from pathlib import Path

from training.cli import flag, run

ROOT = Path(__file__).resolve().parents[1]
FULL = {
    "mae_step.py": ["--rounds", "5"],
    "heatmap.py": ["--rounds", "2"],
    "reader.py": ["--rounds", "5"],
    "start_up.py": ["--rounds", "5"],
}
QUICK = {
    "mae_step.py": ["--rounds", "1", "--sizes", "mini", "--batch_size", "2", "--compile", "none"],
    "heatmap.py": "--rounds 1 --size mini --images 1 --height 600 --width 450 --passes 4".split(),
    "reader.py": ["--rounds", "1", "--height", "400", "--width", "300", "--files", "1"],
    "start_up.py": ["--rounds", "1"],
}
SECTIONS = {
    "mae_step.py": (
        "One pretraining step",
        "Forward, backward and AdamW at 224 pixels, mask ratio 0.75, one thread; the same weights, radiographs and "
        "masks, loss and gradients compared first. Ratios to transformers' `ViTMAEForPreTraining` in float32 as "
        "installed; the last columns: to transformers in the same precision, and the share of the peak of matrix "
        "products measured in the same run.",
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
    "start_up.py": ("Start-up", "Whole processes, time on the wall."),
}


@dataclass
class Config:
    """Run every benchmark and write the page of results."""

    out: Path = flag(ROOT / "benchmarks" / "README.md", "page to write")
    quick: bool = flag(False, "tiny networks and one round: shows that everything runs, not how fast")


def main(config: Config) -> int:
    """Write the page; figures of the run go to the screen as they come."""
    import json
    import subprocess

    from benchmarks.paired import machine
    from training.files import write_text

    parts = []
    for script, given in (QUICK if config.quick else FULL).items():
        command = [sys.executable, str(ROOT / "benchmarks" / script), *given]
        print(f"{script} {' '.join(given)}", flush=True)
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"benchmarks/{script} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        title, text = SECTIONS[script]
        parts.append(f"## {title}\n\n`python benchmarks/{script} {' '.join(given)}`\n\n{text}\n\n{tables(rows)}")
        print(tables(rows), flush=True)
    facts = "\n".join(f"* {name}: {value}" for name, value in machine().items())
    write_text(config.out, f"# Benchmarks\n\n{INTRODUCTION}\n{facts}\n\n" + "\n".join(parts))
    print(f"written: {config.out}")
    return 0


INTRODUCTION = """\
Written by `python benchmarks/run_all.py`. Within a round the variants take turns, in alternating order; a ratio is of
one round, given as median [lowest, highest]; more than 1 is faster. Processor time of one thread where nothing else is
said, so that a busy machine changes little. The machine of this run:
"""


def tables(rows: list[dict]) -> str:
    """Markdown tables of the lines that a benchmark printed, one for each case."""
    peaks = [f"{row['peak']} {row['gflops']} GFLOP/s ({row['case']})" for row in rows if "peak" in row]
    timed = [row for row in rows if "variant" in row]
    text = ""
    for case in dict.fromkeys(row["case"] for row in timed):
        mine = [row for row in timed if row["case"] == case]
        extra = [key for key in EXTRA if any(key in row for row in mine)]
        head = [case, "ratio", "seconds", *(EXTRA[key][0] for key in extra)]
        lines = [head, ["---"] * len(head)]
        for row in mine:
            spread = f"**{row['ratio']:.2f}** [{row['low']:.2f}, {row['high']:.2f}]"
            spread = "1" if row["ratio"] == row["low"] == row["high"] == 1 else spread
            cells = [EXTRA[key][1].format(row[key]) if key in row else "" for key in extra]
            lines.append([row["variant"], spread, f"{row['seconds']:.3g}", *cells])
        text += "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n\n"
    return text + (f"Peak of matrix products: {'; '.join(peaks)}.\n" if peaks else "")


EXTRA = {
    "radiographs_per_second": ("radiographs / s", "{:.3g}"),
    "against_same_precision": ("same precision", "{:.2f}"),
    "peak_share": ("share of peak", "{:.0%}"),
}


if __name__ == "__main__":
    run(main, Config)

"""The benchmarks: fair turns, honest ratios, and that all of them run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import run_all
from benchmarks.paired import machine, report, seconds_of

ROOT = Path(__file__).parents[2]


def test_variants_take_turns_in_alternating_order_after_a_round_to_warm_up():
    order, now = [], [0.0]

    def variant(name, cost):
        def act():
            order.append(name)
            now[0] += cost

        return act

    seconds = seconds_of({"a": variant("a", 2.0), "b": variant("b", 1.0)}, 2, clock=lambda: now[0])
    assert "".join(order) == "ab" + "ba" + "ab"
    assert seconds == {"a": [2.0, 2.0], "b": [1.0, 1.0]}


def test_a_ratio_is_of_one_round(capsys):
    report("case", {"theirs": [4.0, 8.0, 6.0], "ours": [1.0, 4.0, 2.0]}, "theirs", per=2, share={"ours": 0.5})
    theirs, ours = map(json.loads, capsys.readouterr().out.splitlines())
    assert (ours["ratio"], ours["low"], ours["high"], ours["seconds"], ours["share"]) == (3.0, 2.0, 4.0, 1.0, 0.5)
    assert theirs["ratio"] == theirs["low"] == theirs["high"] == 1 and "share" not in theirs
    table = run_all.tables([theirs, ours])
    assert "| ours | **3.00** [2.00, 4.00] | 1 |" in table and "| theirs | 1 | 3 |" in table


def test_the_machine_is_named():
    facts = machine("cpu")
    assert facts["processor"].strip("; ") and facts["torch"] and int(facts["threads"]) >= 1


@pytest.mark.slow
def test_every_benchmark_runs(tmp_path):
    page = tmp_path / "page.md"
    command = [sys.executable, ROOT / "benchmarks" / "run_all.py", "--quick", "--out", page]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    for part in ("ours, bf16", "4 complementary masks", "16-bit PNG", "pretrain_mae.py --help"):
        assert f"| {part}" in text

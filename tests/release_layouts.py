"""Phantoms in the layout of a release, with what was drawn: the truth that a reader of the layout must give back."""

from pathlib import Path

import pandas as pd
import pytest

from phantoms.layouts.registry import WRITERS, fit_plan
from phantoms.plan import Plan, phantoms
from phantoms.study import Phantom


def write_release(
    layout: str, folder: Path, count: int, *, traps: bool = False, seed: int = 1
) -> dict[str, Phantom]:
    """Write `count` small phantoms; path below the folder -> phantom."""
    writer = WRITERS[layout](folder, seed=seed, traps=traps)
    plan = fit_plan(layout, Plan(seed=seed, size=48, difficulty="clear"))
    drawn = {writer.add(phantom): phantom for phantom in phantoms(plan, count)}
    writer.close()
    assert len(drawn) == count
    return drawn


def by_path(records: pd.DataFrame, folder: Path) -> dict[str, dict]:
    """Records as path below the folder -> row; each once, and there."""
    assert records["image"].is_unique and all(Path(path).is_file() for path in records["image"])
    assert records.index.tolist() == list(range(len(records)))
    return {
        Path(row["image"]).relative_to(folder).as_posix(): row for row in records.to_dict("records")
    }


def refusal(read, *told: str) -> str:
    """The one sentence of a refusal, with all of the words in it."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read()
    sentence = str(caught.value)
    assert len(sentence.splitlines()) == 1 and len(sentence) < 700, sentence
    for words in told:
        assert words in sentence, sentence
    return sentence


def swap(path: Path, old: str, new: str) -> None:
    """Replace the first `old` in a text file, byte by byte."""
    content = path.read_bytes()
    assert old.encode() in content
    path.write_bytes(content.replace(old.encode(), new.encode(), 1))

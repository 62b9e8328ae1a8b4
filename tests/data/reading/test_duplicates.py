"""Near-duplicates: what is joined, what is kept apart, and what the names of the groups do not depend on."""

import io
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data.reading import near_duplicates as duplicates
from data.reading.near_duplicates import (
    BITS,
    DISTANCE,
    Look,
    groups_of,
    look_at,
    near_duplicate_groups,
    patients_with_copies,
    picture_hash,
)
from phantoms.plan import Plan, phantoms
from phantoms.study import eight_bit


@pytest.fixture(scope="module")
def hands():
    """One posterior-anterior view of each of 60 plain hands: as alike as strangers can be."""
    return list(phantoms(Plan(7, 224, "clear", ("hand",), ("normal",), views=("pa",)), 60))


@pytest.fixture(scope="module")
def strangers(hands):
    """[60, 576] bool, the hashes of the hands."""
    return np.array([bits(phantom.pixels) for phantom in hands])


def bits(pixels: np.ndarray) -> np.ndarray:
    return np.unpackbits(picture_hash(pixels)).astype(bool)


def compressed(pixels: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def resized(pixels: np.ndarray, factor: float, method=Image.Resampling.BICUBIC) -> np.ndarray:
    height, width = pixels.shape
    return np.asarray(
        Image.fromarray(pixels).resize((round(width * factor), round(height * factor)), method)
    )


CHANGES = {
    "as 8 bits": lambda p: p,
    "JPEG of quality 50": lambda p: compressed(p, 50),
    "JPEG of quality 25": lambda p: compressed(p, 25),
    "half the size": lambda p: resized(p, 0.5),
    "double the size": lambda p: resized(p, 2, Image.Resampling.LANCZOS),
    "0.7 of the size, and JPEG": lambda p: compressed(
        resized(p, 0.7, Image.Resampling.BILINEAR), 75
    ),
    "darker": lambda p: (p * 0.6).astype(np.uint8),
    "less contrast": lambda p: (p * 0.5 + 70).astype(np.uint8),
    "gamma 0.7": lambda p: (255 * (p / 255) ** 0.7).astype(np.uint8),
    "gamma 1.5": lambda p: (255 * (p / 255) ** 1.5).astype(np.uint8),
    "brighter, a little saturated": lambda p: np.clip(p * 1.1, 0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_nearer_than_any_stranger(change, hands, strangers):
    for index in range(0, 60, 3):
        apart = (strangers != bits(CHANGES[change](eight_bit(hands[index])))).sum(axis=1)
        assert apart[index] <= DISTANCE, (index, apart[index])
        assert np.delete(apart, index).min() > apart[index]


def test_strangers_of_one_region_and_view_are_kept_apart(strangers):
    """Plain hands in one pose are the worst case; the module's docstring has the rate over millions of pairs."""
    apart = (strangers[:, None] != strangers[None]).sum(axis=2)[np.triu_indices(len(strangers), 1)]
    assert len(apart) == 1770 and (apart <= DISTANCE).sum() == 0 and apart.min() > 80
    assert np.median(apart) > 0.4 * BITS


def looks(hashes: np.ndarray, sums=None) -> list[Look]:
    sums = sums or [f"{i:016x}" * 4 for i in range(len(hashes))]
    return [Look(s, np.packbits(row).tobytes().hex()) for s, row in zip(sums, hashes)]


def brute_force(hashes: np.ndarray, distance: int, hints, hint_distance: int) -> list[set[int]]:
    """Groups by repeated merging, one pair at a time."""
    groups = [{i} for i in range(len(hashes))]
    for i in range(len(hashes)):
        for j in range(i):
            agree = hints is not None and hints[i] == hints[j] and None not in hints[i]
            if (hashes[i] != hashes[j]).sum() <= (
                max(distance, hint_distance) if agree else distance
            ):
                one, other = (next(g for g in groups if k in g) for k in (i, j))
                if one is not other:
                    one |= other
                    groups.remove(other)
    return sorted(map(frozenset, groups), key=min)


@pytest.mark.parametrize("block", [7, 512])
@pytest.mark.parametrize("hinted", [False, True])
def test_groups_equal_brute_force(block, hinted, monkeypatch):
    monkeypatch.setattr(duplicates, "BLOCK", block)
    rng = np.random.default_rng(3)
    centres = rng.integers(0, 2, (12, BITS)).astype(bool)
    hashes = centres[rng.integers(0, 12, 90)] ^ (
        rng.random((90, BITS)) < rng.uniform(0, 0.1, (90, 1))
    )
    pairs = (
        [(rng.choice(["F", "M", None]), int(rng.integers(3))) for _ in range(90)]
        if hinted
        else None
    )
    table = pd.DataFrame(pairs, columns=["sex", "age"]) if hinted else None
    expected = brute_force(hashes, 40, pairs, 70)
    assert 12 < len(expected) < 90
    found = groups_of(range(90), looks(hashes), distance=40, hints=table, hint_distance=70)
    names = pd.Series(range(90)).groupby(found).agg(frozenset)
    assert sorted(names, key=min) == expected


def test_hints_may_join_by_themselves():
    hashes = np.random.default_rng(0).integers(0, 2, (5, BITS)).astype(bool)
    table = pd.DataFrame({"age": [30, 30, 31, None, None], "sex": ["F", "F", "F", "M", "M"]})
    found = groups_of(range(5), looks(hashes), hints=table, hint_distance=BITS)
    assert found[0] == found[1] and len(set(found)) == 4  # a row with a gap agrees with none
    with pytest.raises(ValueError, match="4 rows of hints for 5 radiographs"):
        groups_of(range(5), looks(hashes), hints=table[:4])
    with pytest.raises(ValueError, match="0 to 576 bits, not 576"):
        groups_of(range(5), looks(hashes), distance=BITS)


@pytest.fixture
def folder(hands, tmp_path):
    """Three hands; a copy, a compressed and a darker picture of the first; a file that is no picture, and none."""
    for number in range(3):
        Image.fromarray(hands[number].pixels).save(tmp_path / f"{number}.png")
    shutil.copyfile(tmp_path / "0.png", tmp_path / "copy.png")
    plain = eight_bit(hands[0])
    Image.fromarray(plain).save(tmp_path / "compressed.jpg", quality=50)
    Image.fromarray((plain * 0.6).astype(np.uint8)).save(tmp_path / "darker.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    names = (
        "0.png",
        "1.png",
        "copy.png",
        "broken.png",
        "2.png",
        "compressed.jpg",
        "darker.png",
        "none.png",
    )
    return [tmp_path / name for name in names]


def test_files_are_grouped_whatever_their_order(folder):
    found = dict(zip(folder, near_duplicate_groups(folder)))
    same = [found[folder[i]] for i in (0, 2, 5, 6)]
    assert len(set(same)) == 1 and len(set(found.values())) == 5
    assert [name.startswith("unread-") for name in found.values()] == [False] * 3 + [True] + [
        False
    ] * 3 + [True]
    backwards = folder[::-1]
    assert dict(zip(backwards, near_duplicate_groups(backwards))) == found


def test_group_names_belong_to_the_content(folder, tmp_path_factory):
    moved = shutil.copytree(folder[0].parent, tmp_path_factory.mktemp("elsewhere") / "set")
    readable = [path for path in folder if path.name not in ("broken.png", "none.png")]
    assert near_duplicate_groups([moved / path.name for path in readable]) == near_duplicate_groups(
        readable
    )


def test_hashes_are_kept(folder, tmp_path, monkeypatch):
    cache = tmp_path / "hashes.csv"
    first = look_at(folder, cache=cache)
    assert [seen.reason for seen in first] == ["", "", "", "not-an-image", "", "", "", "missing"]
    seen = []
    monkeypatch.setattr(
        duplicates,
        "look",
        lambda path: seen.append(path.name) or Look("0" * 64, "00" * (BITS // 8)),
    )
    again = look_at(folder, cache=cache)
    assert seen == ["broken.png", "none.png"]  # may have been mended
    assert [a for a, b in zip(first, again) if b.reason or a == b] == [
        a for a in first if not a.reason
    ]
    os.utime(folder[1], ns=(1, 1))
    look_at(folder[:3], cache=cache)
    assert seen[2:] == ["1.png"]
    cache.write_text("a,b\n1,2\n")
    with pytest.raises(
        ValueError, match=r"hashes\.csv: not a table of hashes; its columns are a, b"
    ):
        look_at(folder, cache=cache)


def test_other_processes_see_the_same(folder):
    assert look_at(folder, workers=1) == look_at(folder)


def test_depth_and_shape_do_not_matter():
    rng = np.random.default_rng(5)
    small = np.asarray(Image.fromarray(rng.random((40, 40)).astype(np.float32)).resize((200, 150)))
    deep = (np.clip(small, 0, 1) * 65535).astype(np.uint16)
    assert (bits(deep) != bits(np.clip(small, 0, 1))).sum() <= 2 and (
        bits(deep) != bits((deep >> 8).astype(np.uint8))
    ).sum() <= 20
    assert picture_hash(np.eye(16, 20, dtype=np.uint8)).shape == (BITS // 8,)
    dot = np.zeros((300, 300), np.uint8)
    dot[10:14, 10:14] = 255  # between the percentiles there is nothing
    assert picture_hash(dot).any()


def test_patients_with_copies_are_one_as_by_a_search():
    rng = np.random.default_rng(0)
    for _ in range(30):
        patients = [f"p{k}" for k in rng.integers(0, 25, 40)]
        content = [str(k) for k in rng.integers(0, 45, 40)]
        joined, expected = patients_with_copies(patients, content), {}
        for start in patients:
            group, old = {start}, set()
            while group != old:
                old = set(group)
                files = {c for p, c in zip(patients, content) if p in old}
                group |= {p for p, c in zip(patients, content) if c in files}
            expected[start] = min(group)
        assert joined == [expected[patient] for patient in patients]
    assert patients_with_copies(["b", "a"], ["x", "y"]) == ["b", "a"]

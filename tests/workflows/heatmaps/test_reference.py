"""References of normals: z-scores by group, members left out of their own maps, and what is unlike the normals."""

import os

import numpy as np
import pytest

from workflows.heatmaps.normal_reference import (
    FINGERPRINT,
    NormalReference,
    Radiograph,
    TooFewNormals,
    cells_of,
)
from workflows.heatmaps.reference_groups import (
    few_normals_sentence,
    groups_sentence,
    limits_of,
    outside_sentence,
)


def random_radiograph(rng, errors, name):
    """A radiograph of its own: a random fingerprint and cells like those of others."""
    cells = np.abs(rng.normal(0.5, 0.05, (2, 8, 8))).astype(np.float32)
    return Radiograph(np.asarray(errors, np.float32), cells, str(name), rng.bytes(FINGERPRINT))


def filled(rng, errors, groups=(), **options):
    """(reference, its radiographs): one of each of `errors` [n, rows, columns]."""
    reference = NormalReference(**{"near": 58} | options)
    radiographs = [
        random_radiograph(rng, one, f"{groups}{number}") for number, one in enumerate(errors)
    ]
    for radiograph in radiographs:
        reference.add(radiograph, groups)
    return reference, radiographs


def test_z_scores_by_group():
    rng = np.random.default_rng(0)
    knees = rng.normal(0.02, 0.004, (40, 3, 4)).astype(np.float32)
    hands = rng.normal(0.05, 0.01, (30, 3, 4)).astype(np.float32)
    reference, _ = filled(rng, knees, ["knee"])
    for number, errors in enumerate(hands):
        reference.add(random_radiograph(rng, errors, number), ["hand"])
    mean, spread = reference.moments("knee")
    np.testing.assert_allclose(mean, knees.mean(0), rtol=1e-6)
    np.testing.assert_allclose(spread, knees.std(0, ddof=1), rtol=1e-4)
    new = random_radiograph(rng, rng.random((3, 4)), "new")
    found = reference.compare(new, ["knee"])
    np.testing.assert_allclose(
        found.z, (new.errors - knees.mean(0)) / knees.std(0, ddof=1), rtol=1e-4
    )
    assert (found.group, found.normals, found.left_out) == ("knee", 40, 0)
    everything = np.concatenate([knees, hands])
    found = reference.compare(new, ["foot"])
    np.testing.assert_allclose(
        found.z, (new.errors - everything.mean(0)) / everything.std(0, ddof=1), rtol=1e-4
    )
    assert (found.group, found.normals) == ("", 70)
    assert reference.groups == {"": 70, "knee": 40, "hand": 30}
    assert reference.parts == {"knee": 40, "hand": 30}


def test_the_narrowest_group_that_is_known_is_used():
    rng = np.random.default_rng(0)
    reference, _ = filled(rng, rng.random((4, 2, 2)), ["left", "hands"])
    for number, errors in enumerate(rng.random((3, 2, 2))):
        reference.add(random_radiograph(rng, errors, number), ["pelvis"])
    reference.add(random_radiograph(rng, rng.random((2, 2)), "one"), ["foot"])
    assert reference.group_for(["left", "hands"]) == "left"
    assert reference.group_for(["right", "hands"]) == "hands"
    assert (
        reference.group_for(["foot"]) == "" and reference.group_for([]) == ""
    )  # one normal has no spread
    whole, _ = filled(rng, rng.random((4, 2, 2)), ["images"])
    assert whole.group_for(["images"]) == "images"
    assert whole.group_for(["pelvis", "images"]) == ""  # "no group pelvis" is said, not "by images"


def test_each_patch_counts_by_itself():
    rng = np.random.default_rng(0)
    errors = rng.random((6, 2, 2)).astype(np.float32)
    errors[:3, 0, 0] = errors[1:, 1, 1] = np.nan
    reference, _ = filled(rng, errors)
    mean, spread = reference.moments("")
    assert mean[0, 0] == pytest.approx(errors[3:, 0, 0].mean()) and mean[0, 1] == pytest.approx(
        errors[:, 0, 1].mean()
    )
    assert spread[0, 0] == pytest.approx(errors[3:, 0, 0].std(ddof=1))
    z = reference.compare(random_radiograph(rng, np.ones((2, 2)), "a"), []).z
    np.testing.assert_array_equal(np.isnan(z), [[False, False], [False, True]])
    assert np.isnan(
        reference.compare(random_radiograph(rng, [[1, np.nan], [1, 1]], "b"), []).z[0, 1]
    )


def test_members_and_near_duplicates_are_left_out_of_their_own_comparison():
    """The z of a member is what a reference without it gives, to the last digits; its group stays what it was."""
    rng = np.random.default_rng(1)
    errors = rng.gamma(3, 0.01, (12, 3, 4)).astype(np.float32)
    reference, radiographs = filled(rng, errors, ["hand"])
    for place in (0, 7):
        others = np.delete(errors, place, 0).astype(np.float64)
        expected = (errors[place] - others.mean(0)) / others.std(0, ddof=1)
        member = radiographs[place]
        flipped = np.unpackbits(np.frombuffer(member.fingerprint, np.uint8))
        flipped[:58] ^= 1
        copies = {
            "the same file": member._replace(fingerprint=rng.bytes(FINGERPRINT)),
            "the same pixels": member._replace(sha256="x"),
            "nearly the same pixels": member._replace(
                sha256="x", fingerprint=np.packbits(flipped).tobytes()
            ),
        }
        for name, copy in copies.items():
            found = reference.compare(copy, ["hand"])
            assert (found.group, found.normals, found.left_out) == ("hand", 11, 1), name
            np.testing.assert_allclose(found.z, expected, rtol=1e-4, err_msg=name)
        flipped[58:70] ^= 1
        stranger = member._replace(sha256="x", fingerprint=np.packbits(flipped).tobytes())
        assert reference.compare(stranger, ["hand"]).left_out == 0


def test_a_copy_counts_once_in_the_groups_of_both():
    rng = np.random.default_rng(0)
    reference, radiographs = filled(rng, rng.random((3, 2, 2)), ["hand"])
    reference.add(radiographs[0], ["wrist"])
    reference.add(radiographs[1], ["wrist"])
    assert reference.groups == {"": 3, "hand": 3, "wrist": 2} and reference.copies == 2
    assert reference.parts == {"wrist": 2, "": 1}


def test_left_out_members_leave_at_least_two():
    rng = np.random.default_rng(0)
    reference, radiographs = filled(rng, rng.random((3, 2, 2)), ["hand"])
    reference.add(random_radiograph(rng, rng.random((2, 2)), "foot"), ["foot"])
    assert reference.compare(radiographs[0], ["hand"]).normals == 2
    small, radiographs = filled(rng, rng.random((2, 2, 2)), ["hand"])
    with pytest.raises(TooFewNormals, match="has 1 other normal radiograph; at least 2"):
        small.compare(radiographs[0], ["hand"])
    small.add(random_radiograph(rng, rng.random((2, 2)), "foot"), ["foot"])
    assert small.compare(radiographs[0], ["hand"])[1:4] == (
        "",
        2,
        1,
    )  # the group is too small without it


@pytest.mark.parametrize("count", [3, 5, 20])
def test_what_z_can_reach(count):
    """A member's z is bounded by (n - 1) / sqrt(n), which the page names; the bound is reached."""
    values = np.zeros(count)
    values[0] = 1
    highest = (values[0] - values.mean()) / values.std(ddof=1)
    told = few_normals_sentence("hands", count)
    assert (
        f"could reach z = {highest:.2f} at most" in told
        and f"z from {count} normal radiographs (hands)" in told
    )
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((60_000, count))
    new = (rng.standard_normal(len(drawn)) - drawn.mean(1)) / drawn.std(1, ddof=1)
    chance = float(told.split("puts ")[1].split("%")[0])
    assert chance == pytest.approx(100 * (new > 3).mean(), abs=0.25)
    assert ("Fewer than 5 normals" in told) == (count < 5)


def test_the_page_says_so_for_each_group_with_few_normals():
    record = {"reference_group": "hands", "reference_normals": 4, "left_out": 1}
    others = {"reference_group": "all", "reference_normals": 50, "left_out": 0}
    told = " ".join(limits_of([record, others, record | {"reference_normals": 5, "left_out": 0}]))
    assert told.count("could reach z = 1.79 at most") == 1 and "(all)" not in told


def normals(rng, count, level, brightness):
    """Radiographs of one kind: errors and cells vary around a pattern."""
    pattern = np.linspace(0.5, 1.5, 64).reshape(8, 8)
    result = []
    for _ in range(count):
        errors = level * pattern * np.exp(rng.normal(0, 0.3, (8, 8)))
        cells = np.stack(
            [rng.normal(brightness, 0.05, (8, 8)), np.exp(rng.normal(-2, 0.2, (8, 8)))]
        )
        result.append(
            Radiograph(errors, cells.astype(np.float32), rng.bytes(8).hex(), rng.bytes(FINGERPRINT))
        )
    return result


@pytest.mark.parametrize("count", [5, 10, 40])
@pytest.mark.parametrize(
    ("level", "brightness"), [(0.2, 0.8), (0.002, 0.1), (0.02, 0.95), (5.0, 0.4)]
)  # too high, too low, another brightness, other errors
def test_another_kind_is_outside_and_the_same_kind_is_not(count, level, brightness):
    rng = np.random.default_rng(count)
    reference = NormalReference(near=58)
    for radiograph in normals(rng, count, 0.02, 0.4):
        reference.add(radiograph, ["hand"])
    same = [reference.compare(one, ["hand"]) for one in normals(rng, 60, 0.02, 0.4)]
    assert np.mean([one.outside > one.limit for one in same]) <= 0.1
    assert np.median([one.outside for one in same]) <= 0.03
    other = [reference.compare(one, ["pelvis"]) for one in normals(rng, 20, level, brightness)]
    assert np.mean([one.outside > one.limit for one in other]) > 0.9


def test_a_lesion_does_not_make_a_radiograph_unlike_the_normals():
    rng = np.random.default_rng(3)
    reference = NormalReference(near=58)
    for radiograph in normals(rng, 20, 0.02, 0.4):
        reference.add(radiograph, [])
    found = []
    for one in normals(rng, 20, 0.02, 0.4):
        one.errors[2:4, 2:4] *= 20
        one.cells[:, 2:4, 2:4] += 0.4
        found.append(reference.compare(one, []))
    assert min(one.z.max() for one in found) > 10
    assert np.mean([one.outside > one.limit for one in found]) <= 0.1


def test_two_normals_say_nothing_about_what_is_unlike_them():
    rng = np.random.default_rng(0)
    reference = NormalReference(near=58)
    for radiograph in normals(rng, 2, 0.02, 0.4):
        reference.add(radiograph, [])
    assert reference.held_out("") == [] and reference.limit("") == 0.1


def test_a_reference_is_replaced_as_a_whole(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    reference, _ = filled(rng, rng.random((3, 2, 2)))
    reference.save(tmp_path / "reference.npz")
    before = (tmp_path / "reference.npz").read_bytes()

    def broken(*args, **options):
        raise OSError("pulled out")

    monkeypatch.setattr(os, "fsync", broken)
    reference.add(random_radiograph(rng, np.ones((2, 2)), "new"), [])
    with pytest.raises(OSError, match="pulled out"):
        reference.save(tmp_path / "reference.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["reference.npz"]
    assert (tmp_path / "reference.npz").read_bytes() == before


def test_the_file_reads_back_and_knows_its_radiographs(tmp_path):
    rng = np.random.default_rng(0)
    reference, radiographs = filled(
        rng, rng.random((5, 2, 2)), ["knee"], settings={"mask_ratio": 0.75}, source="x"
    )
    reference.add(random_radiograph(rng, rng.random((2, 2)), "alone"), ["NAME^OF^A^PATIENT"])
    reference.save(tmp_path / "reference.npz")
    written = (tmp_path / "reference.npz").read_bytes()
    assert "knee".encode("utf-32-le") in written  # as numpy writes text
    assert "PATIENT".encode("utf-32-le") not in written  # a group of one is of no use
    stored = NormalReference.load(tmp_path / "reference.npz")
    assert (
        stored.groups == {"": 6, "knee": 5}
        and stored.settings == {"mask_ratio": 0.75}
        and stored.source == "x"
    )
    new = random_radiograph(rng, rng.random((2, 2)), "new")
    for one in (new, radiographs[2], radiographs[2]._replace(sha256="renamed")):
        before, after = reference.compare(one, ["knee"]), stored.compare(one, ["knee"])
        np.testing.assert_array_equal(before.z, after.z)
        assert before[1:] == after[1:] and before.left_out == (one is not new)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"squares": np.zeros(2)}, "made by an earlier version.*make it anew from their folder"),
        ({"errors": np.zeros((2, 2, 2), np.float32)}, "errors are not finite numbers"),
        ({"errors": np.full((5, 2, 2), np.inf, np.float32)}, "errors are not finite numbers"),
        ({"cells": np.zeros((5, 2, 4, 4), np.float32)}, "cells are not finite numbers"),
        ({"fingerprints": np.zeros((5, 3), np.uint8)}, "fingerprints do not fit"),
        ({"member": np.zeros((1, 5), bool)}, "groups do not fit|not told apart"),
        ({"sha256": '["a", "a", "a", "a", "a"]'}, "not told apart"),
        ({"settings": "{"}, "Expecting property name"),
    ],
)
def test_damaged_and_old_files_are_refused(change, message, tmp_path):
    rng = np.random.default_rng(0)
    reference, _ = filled(rng, rng.random((5, 2, 2)), ["knee"])
    reference.save(tmp_path / "reference.npz")
    with np.load(tmp_path / "reference.npz") as stored:
        parts = dict(stored) | change
    np.savez(tmp_path / "broken.npz", **parts)
    with pytest.raises(ValueError, match=rf"broken\.npz: not a reference.*({message})"):
        NormalReference.load(tmp_path / "broken.npz")


def test_it_needs_two_and_never_divides_by_nothing():
    rng = np.random.default_rng(0)
    reference, _ = filled(rng, np.zeros((1, 2, 2)))
    new = random_radiograph(rng, np.ones((2, 2)), "new")
    with pytest.raises(TooFewNormals, match="has 1 normal radiograph; at least 2"):
        reference.compare(new, [])
    reference.add(random_radiograph(rng, np.zeros((2, 2)), "second"), [])
    assert np.isfinite(reference.compare(new, []).z).all()
    spread, _ = filled(rng, [[[v, 2 * v], [3 * v, 0.0]] for v in (1.0, 2.0, 3.0)])
    assert spread.moments("")[1][1, 1] == pytest.approx(0.15)  # a tenth of the median of 1, 2, 3, 0
    with pytest.raises(ValueError, match="grid"):
        spread.compare(random_radiograph(rng, np.ones((3, 3)), "new"), [])


def test_cells_are_means_and_standard_deviations():
    picture = np.random.default_rng(0).random((48, 32))
    blocks = picture.reshape(8, 6, 8, 4)
    np.testing.assert_allclose(
        cells_of(picture), [blocks.mean((1, 3)), blocks.std((1, 3))], atol=1e-5
    )


def test_one_line_says_which_normals_were_used():
    used = [(["hands"], "hands")] * 10 + [(["pelvis"], "all")] * 20
    assert groups_sentence(used) == "10 by hands, 20 by all: no group pelvis"
    assert (
        groups_sentence([(["a", "set"], "all"), (["b", "set"], "all")]) == "2 by all: no group a, b"
    )
    assert groups_sentence([(["left", "hands"], "hands"), (["hands"], "hands")]) == "2 by hands"


def test_most_of_all_or_of_a_folder_decide():
    def records(name, outside, inside, share=0.15):
        record = {"groups": [name], "reference_group": "all", "outside_limit": 0.1}
        mine = [
            record | {"outside_share": share if k < outside else 0.02}
            for k in range(outside + inside)
        ]
        return [
            one | {"outside_reference": one["outside_share"] > one["outside_limit"]} for one in mine
        ]

    assert outside_sentence(records("hands", 3, 20)) == ""
    assert outside_sentence([]) == "" and outside_sentence(records("hands", 10, 10)) == ""
    told = outside_sentence(records("hands", 1, 29) + records("pelvis", 10, 0))
    assert (
        told.startswith("11 of 40 radiographs are unlike")
        and "10 of 10 of pelvis (compared with all)" in told
    )
    assert (
        outside_sentence(records("hands", 1, 29) + records("patient 7", 4, 0)) == ""
    )  # too few to stop a run
    assert outside_sentence(records("a", 1, 0)) == ""  # one in ten normals is as odd
    assert outside_sentence(records("a", 1, 0, share=0.25)).startswith("1 of 1 radiographs")

"""BTXRD in its published layout, from the phantoms' writer: three tasks, groups from hints, contradictions."""

import shutil

import numpy as np
import pandas as pd
import pytest

from data.releases.btxrd import BENIGN, MALIGNANT, SITES, SUBTYPES
from data.releases.registry import BENCHMARK
from phantoms.layouts.btxrd import (
    BTXRD_BENIGN,
    BTXRD_MALIGNANT,
    BTXRD_SITES,
    BtxrdWriter,
    tumour_subtype,
)
from phantoms.plan import Plan, phantoms

ALL, MALIGNANCY, SUBTYPE = (BENCHMARK[name] for name in ("btxrd", "btxrd_mb", "btxrd_subtype"))
SEED = 5


@pytest.fixture(scope="module")
def drawn():
    conditions = ("normal", "lytic", "sclerotic", "osteochondroma")
    return list(phantoms(Plan(SEED, 64, "clear", ("hand", "knee", "shoulder"), conditions), 48))


@pytest.fixture(scope="module")
def made(drawn, tmp_path_factory):
    folders = (
        tmp_path_factory.mktemp("btxrd") / "plain",
        tmp_path_factory.mktemp("btxrd") / "trapped",
    )
    for folder in folders:
        writer = BtxrdWriter(folder, seed=SEED, traps=folder.name == "trapped")
        for phantom in drawn:
            writer.add(phantom)
        writer.close()
    return folders


@pytest.fixture
def root(made, tmp_path):
    """A copy that may be spoilt, with the table as .csv alone."""
    root = shutil.copytree(made[0], tmp_path / "set")
    (root / "dataset.xlsx").unlink()
    return root


def kinds_of(drawn) -> list[str]:
    """The subtype of each phantom, by the rules of the writer."""
    kinds = []
    for phantom in drawn:
        rng = np.random.default_rng([SEED, phantom.patient, 23])
        rng.choice([1, 2, 3], p=[0.784, 0.147, 0.069])
        kinds.append(tumour_subtype(phantom, rng))
    return kinds


def test_reader_and_writer_agree_on_the_columns():
    assert (SITES, BENIGN, MALIGNANT) == (BTXRD_SITES, BTXRD_BENIGN, BTXRD_MALIGNANT)


def test_labels_are_what_was_drawn(made, drawn):
    kinds = kinds_of(drawn)
    names = [f"IMG{n:06d}.{'jpg' if n % 20 == 0 else 'jpeg'}" for n in range(1, 49)]
    records = ALL.read(made[0])
    assert records["image"].tolist() == [str(made[0] / "images" / name) for name in names]
    assert records["target"].tolist() == [float(bool(kind)) for kind in kinds]
    assert set(records["center"]) <= {1, 2, 3} and records["age"].tolist() == [
        int(p.age_years) for p in drawn
    ]
    tumours = [index for index, kind in enumerate(kinds) if kind]
    assert 10 < len(tumours) < 48
    for cls, target in (
        (MALIGNANCY, [float(kinds[i] in BTXRD_MALIGNANT) for i in tumours]),
        (SUBTYPE, [float(SUBTYPES.index(kinds[i])) for i in tumours]),
    ):
        records = cls.read(made[0])
        assert records["image_id"].tolist() == [names[i] for i in tumours]
        assert records["target"].tolist() == target and len(set(target)) > 1
        assert (
            records.attrs["notices"][0]
            == f"{48 - len(tumours)} radiographs without a tumour left out"
        )
        assert records.attrs["task"].classes[int(target[0])] in (
            "benign",
            "malignant",
            kinds[tumours[0]],
        )


@pytest.mark.parametrize("cls", [ALL, MALIGNANCY])
def test_no_patient_is_on_two_sides(cls, made, drawn):
    """Views of one lesion look nothing alike: only the hints tie them together."""
    records = cls.read(made[0])
    person = {f"IMG{n:06d}": phantom.patient for n, phantom in enumerate(drawn, 1)}
    people = records["image_id"].map(lambda name: person[name.split(".")[0]])
    assert people.nunique() < len(records)
    assert (records.groupby(people)["patient"].nunique() == 1).all()
    assert records["patient"].nunique() > 0.7 * people.nunique()  # and few strangers are joined
    assert (
        "near-duplicates and of equal centre, age, gender, sites and subtype"
        in records.attrs["notices"][-1]
    )


def test_traps(made):
    trapped = made[1]
    with pytest.raises(
        FileNotFoundError, match="1 of 50 radiographs are not there: .*/images/IMG000050.jpeg"
    ):
        ALL.read(trapped)
    records = ALL.read(trapped, keep_missing=True)
    assert records["patient"][48] == records["patient"][0] != records["patient"][49]
    assert [p.split(".")[-1] for p in records["image"][[18, 19]]] == [
        "jpeg",
        "jpg",
    ]  # the table says .jpeg of both
    assert records["image_id"][19] == "IMG000020.jpeg"
    both = records.index[(records[list(SUBTYPES)].sum(axis=1) == 2)].tolist()
    assert len(both) == 1
    subtypes = SUBTYPE.read(trapped, keep_missing=True)
    double = records["image_id"][both[0]]
    assert double not in set(subtypes["image_id"]) and double in set(
        MALIGNANCY.read(trapped, keep_missing=True)["image_id"]
    )
    assert len(subtypes) == records["tumor"].sum() - 1
    assert (
        subtypes.attrs["notices"][1]
        == f"1 radiograph with several subtypes left out, first {double}"
    )


def test_either_table_gives_the_same(root, made):
    shutil.copyfile(made[0] / "dataset.xlsx", root / "dataset.xlsx")
    from_csv = SUBTYPE.read(root)
    (root / "dataset.csv").unlink()
    from_xlsx = SUBTYPE.read(root)
    assert from_csv.equals(from_xlsx)
    (root / "dataset.xlsx").unlink()
    with pytest.raises(FileNotFoundError, match=r"dataset\.csv: no such table"):
        SUBTYPE.read(root)


@pytest.mark.parametrize(
    "cells, told",
    [
        ({"tumor": 0}, "contradicts itself: tumor is not benign [+] malignant"),
        ({"benign": 1, "malignant": 1}, "contradicts itself: tumor is not benign [+] malignant"),
        (
            {"benign": 0, "malignant": 1},
            "contradicts itself: a benign subtype, and benign is not 1",
        ),
        ({"osteosarcoma": 1}, "contradicts itself: a malignant subtype, and malignant is not 1"),
        ({"osteosarcoma": 7}, "osteosarcoma is '7(.0)?'; expected 0 or 1"),
        ({"image_id": "IMG000001.jpeg"}, "image_id is 'IMG000001.jpeg' a second time"),
        ({"image_id": "/etc/passwd"}, "image_id is '/etc/passwd', which is not the name of a file"),
    ],
)
def test_contradictions_are_named(cells, told, root):
    table = pd.read_csv(root / "dataset.csv")
    row = table.index[table["benign"] == 1][-1]
    for column, value in cells.items():
        table.loc[row, column] = value
    table.to_csv(root / "dataset.csv", index=False)
    with pytest.raises(ValueError, match=rf"dataset\.csv: row {row + 2}.*{told}") as caught:
        SUBTYPE.read(root, keep_missing=True)
    assert len(str(caught.value).splitlines()) == 1


def test_a_tumour_without_subtype_has_no_class(root):
    table = pd.read_csv(root / "dataset.csv")
    row = table.index[table["benign"] == 1][0]
    table.loc[row, list(SUBTYPES)] = 0
    table.to_csv(root / "dataset.csv", index=False)
    records = SUBTYPE.read(root)
    assert table["image_id"][row] not in set(records["image_id"])
    assert (
        records.attrs["notices"][1]
        == f"1 radiograph without a subtype left out, first {table['image_id'][row]}"
    )

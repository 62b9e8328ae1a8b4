"""The table of labels, and the class file that is checked against it."""

from pathlib import Path

import numpy as np
import pytest

from core.tumour_labels import (
    BONES,
    GROUP,
    GROUPS,
    LABELS,
    label_index,
    label_vector,
    read_classes,
    wrong_labels,
)

FILE = Path(__file__).parents[2] / "configs" / "classes.txt"


def test_every_label_is_in_one_group_and_the_groups_are_those_of_the_paper():
    assert (
        sorted(index for group in GROUPS for index in group.indices) == list(range(38))
        and len(set(LABELS)) == 38
    )
    assert [(g.kind, g.indices) for g in GROUPS] == [
        ("sigmoid", (0, 37)),
        ("softmax", (1, 2, 3, 4)),
        ("softmax", tuple(range(5, 34))),
        ("softmax", (34, 35, 36)),
    ]
    assert list(BONES) == sorted(BONES) and len(BONES) == 29
    assert GROUP["tumour"].labels == ("malignant", "intermediate", "benign", "no bone tumour")


def test_the_class_file_of_the_project_agrees(tmp_path):
    assert read_classes(FILE) == LABELS
    (tmp_path / "bare.txt").write_text(
        "\ufeff" + "\n".join(LABELS).replace(" ", "_").upper().replace("TUMOUR", "TUMOR")
    )
    assert read_classes(tmp_path / "bare.txt") == LABELS


@pytest.mark.parametrize(
    ("line", "new", "told"),
    [
        (3, "3: malign", r"line 4: 'malign', expected 'benign'"),
        (3, "4: benign", r"line 4: number 4, expected 3"),
        (6, "", r"line 7: '', expected 'clavicle'"),
        (37, "37: implant\n38: cast", r"39 classes, expected 38"),
        (37, "", r"37 classes, expected 38"),
    ],
)
def test_a_class_file_that_disagrees_is_named_with_its_line(line, new, told, tmp_path):
    lines = FILE.read_text().splitlines()
    lines[line] = new
    (tmp_path / "classes.txt").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=rf"classes\.txt: {told}"):
        read_classes(tmp_path / "classes.txt")
    with pytest.raises(FileNotFoundError, match="nowhere: no such class file"):
        read_classes(tmp_path / "nowhere")


def test_vectors_say_what_is_known():
    labels = label_vector(abnormal=True, tumour="Benign", fracture="no fracture")
    assert np.flatnonzero(labels == 1).tolist() == [0, 3, 36]
    assert np.flatnonzero(np.isnan(labels)).tolist() == [*range(5, 34), 37]
    assert np.isnan(label_vector()).all() and label_vector(implant=False)[37] == 0
    assert label_index("Distal_femur", GROUP["bone"]) == 7
    with pytest.raises(
        ValueError,
        match="tumour 'patella'; choices malignant, intermediate, benign, no bone tumour",
    ):
        label_vector(tumour="patella")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ""),
        ({1: 1}, "tumour is malignant and benign; exactly one must hold"),
        ({3: 0}, "tumour is none of its labels"),
        ({3: np.nan}, "tumour is known in part"),
        ({0: 0.5}, "label value 0.5"),
        ({0: np.nan}, ""),
    ],
)
def test_impossible_labels_are_told(changes, told):
    labels = label_vector(abnormal=True, tumour="benign", bone="patella")
    for index, value in changes.items():
        labels[index] = value
    assert wrong_labels(labels).startswith(told) and bool(wrong_labels(labels)) == bool(told)

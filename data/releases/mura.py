"""MURA v1.1: radiographs of the upper limb, normal or abnormal, read from the release as it is unpacked."""

import re
from pathlib import Path

import pandas as pd

from core.task import Task
from data.datasets.columns import counted, finished
from data.datasets.dataset import RadiographDataset
from data.datasets.release_folder import first_of, release_folder, require_images, require_once
from data.reading.listing import printable
from data.tables.files import paths_below, read_table

RELEASE = "MURA-v1.1"
PARTS = ("elbow", "finger", "forearm", "hand", "humerus", "shoulder", "wrist")
# the folder of the release, the name of its tables, and the split it serves as
SPLITS = {"train": "train", "valid": "test"}
_STUDY = r"(train|valid)/XR_([A-Z]+)/(patient\d+)/study\d+_(positive|negative)"
_IMAGE_PATH = re.compile(_STUDY + r"/[^/]+\.png")
_STUDY_PATH = re.compile(_STUDY + "/?")


class MURA(RadiographDataset):
    """Is anything abnormal in this study of the upper limb?

    Task: binary, 0 normal, 1 abnormal, as radiologists called the whole study; its images all carry the study's label.
    Size: 40,561 images of 14,863 studies of 12,173 patients; public are train (36,808 images, 13,457 studies) and valid
    (3,197 images, 1,199 studies); the test set of the challenge was never released.
    Licence: Stanford University School of Medicine research use agreement; no redistribution, no commercial use.
    Citation: Rajpurkar et al., MURA: Large Dataset for Abnormality Detection in Musculoskeletal Radiographs, MIDL 2018,
    arXiv 1712.06957. Where: https://stanfordmlgroup.github.io/competitions/mura/ (registration).

    Tree, given at MURA-v1.1 or at the folder around it:

        MURA-v1.1/{train,valid}_image_paths.csv       no header, MURA-v1.1/train/XR_WRIST/patient00006/
                                                      study1_positive/image1.png
        MURA-v1.1/{train,valid}_labeled_studies.csv   no header, MURA-v1.1/train/XR_WRIST/patient00006/
                                                      study1_positive/,1
        MURA-v1.1/{train,valid}/XR_{ELBOW,FINGER,FOREARM,HAND,HUMERUS,SHOULDER,WRIST}/
            patientNNNNN/studyN_{positive,negative}/imageN.png

    Records: `target` from the tables of studies, `patient` and `study` from the path, `body_part`, and `official`:
    "train", or "test" for the public valid set. The challenge's own test set being hidden, published results are of the
    valid set, which must therefore not choose an epoch. The official score is Cohen's kappa over studies, of the mean
    of a study's images at a threshold of 0.5 (DenseNet-169: 0.705 on the hidden set).
    Traps: the label is part of every path (`image` and `study` are no features); a patient may own positive and
    negative studies of several body parts; many abnormal studies show hardware or plaster, which is easier to see than
    what they treat; labels are noisy for degenerative disease; some files are RGB; some copies hold ._* shadows of
    macOS, which are left out; v1.0 was withdrawn and is refused.
    """

    folder = RELEASE
    table = "train_image_paths.csv"
    target = "target"
    patient = "patient"
    task = Task("binary", ("normal", "abnormal"), by_study=True)

    @classmethod
    def read(cls, root: str | Path, *, keep_missing: bool = False) -> pd.DataFrame:
        """All records, train before valid, in the order of the tables.

        keep_missing: keep rows whose image is not there, for a caller that looks at every file itself.
        Raises FileNotFoundError (folder, table or images not there) and ValueError (naming table and row).
        """
        folder = release_folder(root, ("", RELEASE), [cls.table])
        notices: list[str] = []
        train, valid = (_read_split(folder, split, keep_missing, notices) for split in SPLITS)
        both = sorted(set(train["patient"]) & set(valid["patient"]))
        if both:
            notices.append(
                f"{counted(len(both), 'patient')} in both train and valid: {first_of(both)}"
            )
        records = pd.concat([train, valid], ignore_index=True)
        return finished(folder / cls.table, records, cls.task, notices)


def _read_split(folder: Path, split: str, keep_missing: bool, notices: list[str]) -> pd.DataFrame:
    """The records of the train or valid folder; what is left out is added to `notices`."""
    table = folder / f"{split}_image_paths.csv"
    labelled = folder / f"{split}_labeled_studies.csv"
    listed = _rows(table, split, _IMAGE_PATH, ("path",))["path"]
    paths = pd.Series(
        paths_below(folder, table.name, list(listed), first_row=1), index=listed.index
    )
    shadows = listed.str.contains("/._", regex=False)
    names = listed[~shadows]
    paths = paths[~shadows]
    require_once(table, list(names), "image")
    labels = _labels(labelled, split)
    studies = names.str.rpartition("/")[0]
    unknown = list(studies[~studies.isin(labels)].unique())
    if unknown:
        told = f"no label for {counted(len(unknown), 'study', 'studies')} of {table.name}: {first_of(unknown)}"
        raise ValueError(f"{printable(labelled)}: {told}")
    require_images(table, list(paths), keep_missing)
    part = studies.str.split("/", expand=True)
    records = pd.DataFrame(
        {
            "image": paths,
            "target": studies.map(labels).astype(float),
            "patient": part[2],
            "study": studies,
            "official": SPLITS[split],
            "body_part": part[1].str.removeprefix("XR_").str.lower(),
        }
    )
    if shadows.any():
        notices.append(
            f"{counted(int(shadows.sum()), '._* file')} of macOS left out of {split}, no radiographs"
        )
    bare = sorted(set(labels) - set(studies))
    if bare:
        count = counted(len(bare), "study", "studies")
        notices.append(f"{count} of {split} without any image in {table.name}: {first_of(bare)}")
    return records


def _labels(table: Path, split: str) -> dict[str, int]:
    """Study -> 0 or 1. Its folder's name says the same; where they contradict each other nobody knows who is right."""
    rows = _rows(table, split, _STUDY_PATH, ("path", "label"))
    names = rows["path"].str.rstrip("/")
    labels = rows["label"].str.strip()
    require_once(table, list(names), "study", "studies")
    for row, (name, label) in enumerate(zip(names, labels), 1):
        if label not in ("0", "1"):
            raise ValueError(
                f"{printable(table)}: row {row}: label {printable(label)[:80]!r}; expected 0 or 1"
            )
        if name.endswith("_positive") != (label == "1"):
            raise ValueError(
                f"{printable(table)}: row {row}: label {label} contradicts the name of the study, {name}"
            )
    return dict(zip(names, labels.astype(int)))


def _rows(table: Path, split: str, form: re.Pattern, columns: tuple[str, ...]) -> pd.DataFrame:
    """A table of the release, its paths without the release's name; ValueError names the row of any other path."""
    rows = read_table(table, names=columns)
    names = rows["path"].str.strip()
    short = names.str.removeprefix(f"{RELEASE}/")
    for row, (name, path) in enumerate(zip(names, short), 1):
        found = form.fullmatch(path)
        if found and found[1] == split and found[2].lower() in PARTS:
            continue
        if name.startswith("MURA-v1.0/"):
            raise ValueError(f"{printable(table)}: row {row}: MURA v1.0 was withdrawn; use v1.1")
        wanted = f"{RELEASE}/{split}/XR_WRIST/patient00006/study1_positive/"
        if form is _IMAGE_PATH:
            wanted += "image1.png"
        raise ValueError(
            f"{printable(table)}: row {row}: {printable(name)[:200]!r}; expected a path like {wanted}"
        )
    return rows.assign(path=short)

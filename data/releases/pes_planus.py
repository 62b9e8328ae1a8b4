"""Pes planus (flat foot): weight-bearing lateral feet, sorted into folders, read from the release as it is unpacked."""

import re
from pathlib import Path, PurePosixPath

import pandas as pd

from core.task import Task
from data.datasets.columns import counted, finished, grouped
from data.datasets.dataset import RadiographDataset
from data.datasets.release_folder import first_of, images_in, there
from data.reading.listing import PassedOver, passed_over_message, printable

_CLASS = re.compile(r"pesplanus-(\d+)", re.IGNORECASE)


class PesPlanus(RadiographDataset):
    """Is this a flat foot?

    Task: binary, 0 control, 1 pes planus.
    Size: 842 images; 402 flat feet and 440 controls after Göker 2025 (DUJE 16:115), 439 and 403 in other listings: the
    notices say how many your copy has.
    Licence: not stated; ask the authors before anything but research.
    Citation: Gül et al., A Novel Deep Transfer Learning-Based Approach for Automated Pes Planus Diagnosis Using X-ray
    Image, Diagnostics 2023;13:1662, doi 10.3390/diagnostics13091662. Where: Kaggle, "Pesplanus Dataset".

    Tree, at any depth:

        Pesplanus Dataset/...pesplanus-1.../*.{jpg,jpeg,png}    flat feet
        Pesplanus Dataset/...pesplanus-0.../*.{jpg,jpeg,png}    controls

    A radiograph is a flat foot if one of the folders that it lies in, below the root, has `pesplanus-1` in its name
    (`pesplanus-10` is another number), and a control if one has `pesplanus-0`, or if it lies in a folder beside that of
    the flat feet; the notices name every folder with its class. Anything else is an error.
    Records: `target`, `folder`, and `patient`: a group of near-duplicates, for there are no patient ids.
    Traps: left and right foot of one person cannot be told from two persons; the published 95.14 % are of augmented
    patches, of which one foot may own several in training and test; no official split.
    """

    folder = "Pesplanus Dataset"
    target = "target"
    patient = "patient"
    task = Task("binary", ("control", "pes planus"))

    @classmethod
    def read(cls, root: str | Path, *, keep_missing: bool = False, **looking) -> pd.DataFrame:
        """All records in the order of their paths; reads every file once to find the near-duplicates.

        keep_missing: of no use here, where no table says what should be there. looking: cache, workers and progress of
        `data.reading.near_duplicates.look_at`.
        Raises FileNotFoundError (no folder of a class) and ValueError (an image in no class, or in two).
        """
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"{printable(root)}: no such folder")
        passed_over: PassedOver = {}
        names = images_in(root, ".", passed_over)
        labels = [_label(root, name) for name in names]
        beside = {
            parent
            for name, label in zip(names, labels)
            if label == 1
            for parent in _parents_of_class(name)
        }
        if not beside:
            has = there(root)
            raise FileNotFoundError(
                f"{printable(root)}: no images in a folder named ...pesplanus-1...; it has {has}"
            )
        labels = [
            0 if label is None and _is_beside(name, beside) else label
            for name, label in zip(names, labels)
        ]
        stray = [name for name, label in zip(names, labels) if label is None]
        if stray:
            told = f"{counted(len(stray), 'image')} neither in a class folder nor in one beside it: {first_of(stray)}"
            raise ValueError(f"{printable(root)}: {told}")
        if 0 not in labels:
            told = "no controls, in a folder named ...pesplanus-0... or another one beside the flat feet"
            raise FileNotFoundError(f"{printable(root)}: {told}; it has {there(root)}")
        records = pd.DataFrame(
            {
                "image": [str(root / name) for name in names],
                "target": pd.Series(labels, dtype=float),
                "official": "",
                "folder": [str(PurePosixPath(name).parent) for name in names],
            }
        )
        counts = records.groupby(["folder", "target"]).size()
        notices = [
            f"{counted(count)} in {printable(folder)}: {cls.task.classes[int(label)]}"
            for (folder, label), count in counts.items()
        ]
        if message := passed_over_message(passed_over):
            notices.append(message)
        return finished(root, grouped(records, notices, **looking), cls.task, notices)


def _label(root: Path, name: str) -> int | None:
    """1 or 0 from the folders that an image lies in, None if none says; ValueError for another number or for both."""
    said = {
        int(number) for part in PurePosixPath(name).parts[:-1] for number in _CLASS.findall(part)
    }
    if said - {0, 1}:
        told = f"class {max(said)}; expected pesplanus-0 or pesplanus-1"
        raise ValueError(f"{printable(root)}: {printable(name)}: {told}")
    if len(said) > 1:
        raise ValueError(f"{printable(root)}: {printable(name)} lies in folders of both classes")
    return said.pop() if said else None


def _parents_of_class(name: str) -> list[PurePosixPath]:
    """The folders around the folder of flat feet that an image lies in."""
    return [folder.parent for folder in PurePosixPath(name).parents if _CLASS.search(folder.name)]


def _is_beside(name: str, parents: set[PurePosixPath]) -> bool:
    """Does an image lie in a folder whose neighbour holds flat feet?"""
    return any(folder.parent in parents for folder in PurePosixPath(name).parents if folder.name)

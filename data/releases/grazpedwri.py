"""GRAZPEDWRI-DX as it is published: wrists of children and adolescents after an injury."""

from pathlib import Path

import pandas as pd

from core.task import Task
from data.datasets.columns import counted, finished, flags, refuse_unclear_labels
from data.datasets.dataset import RadiographDataset
from data.datasets.release_folder import pictures_in, require_images
from data.tables.files import paths_below, read_table, require_columns
from data.tables.id_columns import ids

FLAGS = ("initial_exam", "cast", "diagnosis_uncertain", "osteopenia", "fracture_visible", "metal")
CLASSES = 20  # of the AO task, as in SKELEX


class PediatricFracture(RadiographDataset):
    """Is a fracture visible?

    Task: binary, `fracture_visible` of the table. Size: 20,327 radiographs, 10,643 studies, 6,091 patients.
    Licence: CC BY 4.0. Source: Nagy et al., GRAZPEDWRI-DX, Scientific Data 9:222, 2022,
    https://doi.org/10.6084/m9.figshare.14825193
    Tree: GRAZPEDWRI-DX/dataset.csv and the pictures {filestem}.png (16 bits) in GRAZPEDWRI-DX/images_part1 to
    images_part4, or all in one folder GRAZPEDWRI-DX/images.
    Groups: `patient_id`; follow-ups of one fracture are studies of one patient.
    Flags: initial_exam, cast, diagnosis_uncertain, osteopenia, fracture_visible and metal are 1 or empty, and empty
    means 0: that is how the release documents them, no guess.
    Traps: 16-bit pictures lose their contrast in readers that cut them to 8 bits; markers in the picture and casts are
    shortcuts; `fracture_visible` and the outlines differ in a few pictures; no official split.
    """

    folder = "GRAZPEDWRI-DX"
    table = "dataset.csv"
    image = "{filestem}.png"
    target = "fracture_visible"
    patient = "patient_id"
    task = Task("binary", ("no fracture visible", "fracture visible"))

    @classmethod
    def read(cls, root: str | Path, *, keep_missing: bool = False) -> pd.DataFrame:
        """All records of the task below `root`; `study` is patient and number of the study.

        keep_missing: keep rows whose picture is not there, for a caller that looks at every file itself.
        FileNotFoundError or ValueError name what is missing or wrong.
        """
        root = Path(root)
        table = root / cls.table
        rows = read_table(
            table, text=["filestem", "patient_id", "study_number", "timehash", "ao_classification"]
        )
        require_columns(
            table, rows, ["filestem", "patient_id", "study_number", "ao_classification", *FLAGS]
        )
        refuse_unclear_labels(table, rows["ao_classification"])
        stems = ids(table, rows, "filestem", files=True)
        patients = ids(table, rows, "patient_id")
        folders = sorted(path.name for path in root.glob("images*") if path.is_dir())
        found = pictures_in(root, folders)
        implied = folders[0] if folders else "images"  # of what is not there
        places = [f"{found.get(f'{stem}.png', implied)}/{stem}.png" for stem in stems]
        paths = paths_below(root, cls.table, places)
        require_images(table, paths, keep_missing)
        records = rows.assign(
            filestem=stems,
            patient_id=patients,
            patient=patients,
            image=paths,
            study=patients + "-" + ids(table, rows, "study_number"),
            **flags(table, rows, FLAGS, empty=0),
        )
        notices: list[str] = []
        records, task = cls.labelled(records, notices)
        return finished(table, records, task, notices)

    @classmethod
    def labelled(cls, records: pd.DataFrame, notices: list[str]) -> tuple[pd.DataFrame, Task]:
        """The records of the task with their target; what is left out is told in `notices`."""
        return records.assign(target=records[cls.target]), cls.task


class PediatricImplant(PediatricFracture):
    """Is there metal (plates, wires, screws)? `metal` of the table; all else as in `PediatricFracture`."""

    target = "metal"
    task = Task("binary", ("no metal", "metal"))


class PediatricAO(PediatricFracture):
    """Which fracture is it, by the AO classification of children's fractures?

    Task: the 20 most frequent combinations of codes; the classes, in alphabetical order, are those of the table and
    stand in `records.attrs["task"]`. A cell is split at ";", its parts are stripped and sorted and each is kept once,
    so that "23u-M/2.1 ; 23r-M/2.1 " and "23r-M/2.1;23u-M/2.1" are one class. Radiographs whose diagnosis is uncertain
    are left out first, then those without a code, then all other combinations; of equally frequent ones the alphabet
    decides. All else as in `PediatricFracture`.
    """

    target = "ao"
    task = Task("multiclass")

    @classmethod
    def labelled(cls, records: pd.DataFrame, notices: list[str]) -> tuple[pd.DataFrame, Task]:
        """Certain diagnoses with one of the most frequent combinations."""
        certain = records[records["diagnosis_uncertain"] == 0]
        codes = certain["ao_classification"].map(ao_combination)
        coded = codes[codes != ""]
        counts = coded.value_counts()
        frequent = sorted(sorted(counts.index, key=lambda name: (-counts[name], name))[:CLASSES])
        chosen = coded[coded.isin(frequent)]
        for left, told in (
            (len(records) - len(certain), "of uncertain diagnosis"),
            (len(codes) - len(coded), "without an AO code"),
            (
                len(coded) - len(chosen),
                f"with one of {counted(len(counts) - len(frequent), 'rarer combination')}",
            ),
        ):
            notices += [f"{counted(left)} {told} left out"] if left else []
        if len(frequent) < CLASSES:
            notices.append(
                f"{counted(len(frequent), 'combination')} of AO codes instead of {CLASSES}"
            )
        target = chosen.map({name: float(index) for index, name in enumerate(frequent)})
        return certain.loc[chosen.index].assign(ao=chosen, target=target), Task(
            "multiclass", tuple(frequent)
        )


def ao_combination(cell: object) -> str:
    """The codes of one cell, each once, sorted and joined by ";"; "" for an empty one."""
    parts = {part.strip() for part in cell.split(";")} if isinstance(cell, str) else set()
    return ";".join(sorted(parts - {""}))

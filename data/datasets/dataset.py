"""Radiographs as rows: a data set says where its table is and what the columns mean.

A record is one radiograph: `image` (path), `target` (int, float, or NaN where unknown), optionally `patient` and
`boxes`; every other column of the table rides along. Splitting a data set is selecting rows of its records.
"""

import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from core.tables import list_names
from core.task import Task
from data.datasets.kept_radiographs import KeptRadiographs
from data.tables.files import paths_below, read_table, require_columns
from data.tables.id_columns import ids
from data.views.preprocessing import Preprocessing
from training.sampling import Key, sample_generator


class RadiographDataset(Dataset):
    """Records and a transform; the only labelled `__getitem__` of the project.

    A subclass describes one data set in class attributes; `read` turns its files into records.
    """

    table: ClassVar[str]  # csv or xlsx below the root
    image: ClassVar[
        str
    ]  # path below the root; {column} is filled in from the row, and cannot lead out of it
    target: ClassVar[str]  # column
    patient: ClassVar[str | None] = None  # column
    task: ClassVar[Task]

    def __init__(
        self,
        records: pd.DataFrame,
        preprocessing: Preprocessing,
        transform: Callable | None = None,
        seed: int = 0,
        keep: bool | KeptRadiographs = False,
        extra: Sequence[str] = (),
    ):
        """`transform(pixels, rng)` augments scaled pixels; None for evaluation, which uses `preprocessing` alone.

        `keep` True holds the decoded radiographs in memory, for sets that fit; or they come from `KeptRadiographs`,
        which several data sets and loader processes share. `extra`: columns of numbers that the samples bring along.
        """
        self.records = records.reset_index(drop=True)
        self.preprocessing = preprocessing
        self.transform = transform
        self._paths = records["image"].tolist()
        self._targets = records["target"].astype(float).tolist()
        self.seed = seed
        self._kept = {} if keep is True else None
        self._shared = None
        if isinstance(keep, KeptRadiographs):
            keep.check(preprocessing, augmented=transform is not None)
            self._shared = keep
        for column in extra:
            if column not in records:
                raise ValueError(
                    f"no column {column!r}; the records have {list_names(records.columns)}"
                )
        self._extra = records[list(extra)].to_numpy(np.float32, copy=True) if extra else None
        if extra and not np.isfinite(self._extra).all():
            raise ValueError(
                f"the columns {', '.join(extra)} have gaps; every radiograph needs a number"
            )

    @classmethod
    def read(cls, root: str | Path) -> pd.DataFrame:
        """All records below `root`. FileNotFoundError or ValueError name the table and the column."""
        named = [name for _, name, _, _ in string.Formatter().parse(cls.image) if name]
        table = Path(root) / cls.table
        owner = [cls.patient] if cls.patient else []
        words = [cls.target] if cls.task.kind == "multiclass" else []
        rows = read_table(table, text=[*named, *owner, *words])
        require_columns(table, rows, [cls.target, *owner, *named])
        records = rows.assign(
            image=paths_below(
                root, cls.table, [cls.image.format_map(row) for row in rows.to_dict("records")]
            ),
            target=cls.targets(rows),
        )
        return records.assign(patient=ids(table, rows, cls.patient)) if cls.patient else records

    @classmethod
    def targets(cls, rows: pd.DataFrame) -> pd.Series:
        """The target column as numbers: class index, 0/1, or the value itself; NaN where the table is empty."""
        known = rows[cls.target].dropna()
        if cls.task.kind != "multiclass":
            numbers = pd.to_numeric(known, errors="coerce")
            wrong = ~np.isfinite(numbers) | ((cls.task.kind == "binary") & ~numbers.isin([0, 1]))
            if wrong.any():
                wanted = "0 or 1" if cls.task.kind == "binary" else "a number"
                raise ValueError(
                    f"{cls.table}: {cls.target} has {known[wrong].tolist()[0]!r}; expected {wanted}"
                )
            return numbers.astype(float).reindex(rows.index)
        unknown = sorted(set(known) - set(cls.task.classes), key=str)
        if unknown:
            raise ValueError(
                f"{cls.table}: {cls.target} has {unknown[0]!r}; choices {', '.join(cls.task.classes)}"
            )
        return rows[cls.target].map({name: i for i, name in enumerate(cls.task.classes)})

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: Key | int) -> dict:
        """{"image": [1, h, w], "target": float32, "index": row}, with extra columns "extra": float32 [E].

        key: (epoch, row), or row for evaluation.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        pixels, size = self._scaled(index, self._paths[index])
        if self.transform is None:
            image = self.preprocessing.fit(pixels)
        else:
            rng = sample_generator(self.seed, epoch, index)
            image = torch.from_numpy(
                np.array(self.transform(pixels, rng, **({"size": size} if size else {})))
            )[None]
        sample = {"image": image, "target": torch.tensor(self._targets[index]), "index": index}
        return (
            sample
            if self._extra is None
            else sample | {"extra": torch.from_numpy(self._extra[index])}
        )

    def _scaled(self, index: int, path: str) -> tuple[np.ndarray, tuple[int, int] | None]:
        """Scaled pixels, and for a transform that wants it the radiograph's size if they are fitted already."""
        if self._shared is not None:
            size = (
                self._shared.size_of(path) if getattr(self.transform, "takes_size", False) else None
            )
            if size or not hasattr(self.transform, "takes_size"):
                return self._shared.read(path), size
        if self._kept is None:
            return self.preprocessing.read(path), None
        if index not in self._kept:
            self._kept[index] = self.preprocessing.read(path)
        return self._kept[index], None

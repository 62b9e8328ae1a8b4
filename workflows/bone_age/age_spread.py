"""How widely bone ages of healthy children differ at each age: a table of the user's, by sex and chronological age.

Published tables (Greulich and Pyle's atlas has one) belong to their publishers; none is in this project.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from data.reading.listing import printable
from data.tables.files import read_table, refuse, require_columns

COLUMNS = ("sex", "age_months", "sd_months")


class AgeSpread:
    """A table (.csv, .xlsx) of the columns sex (M or F), age_months and sd_months; between its ages a straight line."""

    def __init__(self, path: Path):
        rows = read_table(path, text=["sex"])
        require_columns(path, rows, COLUMNS)
        sexes = rows["sex"].astype("string").str.strip().str.upper()
        refuse(
            path,
            "sex",
            rows["sex"],
            ~sexes.isin(["M", "F"]).fillna(False).astype(bool),
            "is {!r}; expected M or F",
        )
        numbers = {
            name: pd.to_numeric(rows[name], errors="coerce").astype(float) for name in COLUMNS[1:]
        }
        refuse(
            path,
            "age_months",
            rows["age_months"],
            ~(numbers["age_months"] >= 0),
            "is {!r}; expected 0 or more",
        )
        refuse(
            path,
            "sd_months",
            rows["sd_months"],
            ~(numbers["sd_months"] > 0),
            "is {!r}; expected more than 0",
        )
        self._lines = {}
        for sex in ("M", "F"):
            mine = (sexes == sex).to_numpy(bool)
            age, sd = (numbers[name].to_numpy()[mine] for name in COLUMNS[1:])
            order = np.argsort(age, kind="stable")
            self._lines[sex] = age[order], sd[order]
            if (np.diff(self._lines[sex][0]) == 0).any():
                raise ValueError(f"{printable(path)}: an age of sex {sex} is there twice")

    def sd(self, sex: str, age_months: float) -> float:
        """The SD in months; NaN for an age outside of the table, an unknown one, or an unknown sex."""
        age, sd = self._lines.get(sex, ((), ()))
        return (
            float(np.interp(age_months, age, sd, left=np.nan, right=np.nan))
            if len(age)
            else float("nan")
        )

"""Put the evaluations of several seeds into one page: `scripts/evidence.sh` calls it last.

    python scripts/evidence_table.py --runs evidence/seed0 evidence/seed1 evidence/seed2 --out docs/evidence.md

Each run folder holds evaluation_1 (whole run), evaluation_3 (a third of it) and evaluation_10 (a tenth).
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from dataclasses import dataclass
from pathlib import Path

from core.flags import flag, run
from core.progress import say

SHARES = {10: "a tenth", 3: "a third", 1: "the whole run"}


@dataclass
class Config:
    """Pool the results.csv of several seeds into a page of tables."""

    runs: list[str] = flag(help="run folders of scripts/evidence.sh, one per seed")
    out: str = flag(
        "docs/evidence.md", "the page to write; what stands there below the line of dashes is kept"
    )


def main(config: Config) -> int:
    import pandas as pd

    from data.tables.files import read_table
    from workflows.evidence.tables import curve, markdown
    from core.files import check_output, write_text

    check_output(Path(config.out))
    parts = []
    for folder in config.runs:
        for share in SHARES:
            path = Path(folder) / f"evaluation_{share}" / "results.csv"
            if not path.is_file():
                raise FileNotFoundError(f"{path}: not there; run scripts/evidence.sh to its end")
            parts.append(read_table(path).assign(share=share))
    table = pd.concat(parts, ignore_index=True)
    out = Path(config.out)
    text = "\n".join(
        [
            markdown(
                table[table["share"] == 1],
                title=f"What pretraining buys on phantoms, {len(config.runs)} seeds",
            ),
            curve(table, SHARES),
            "A tenth and a third are states of the same run, while its learning rate was still high.",
            "",
            "Made by `bash scripts/evidence.sh`: figures are means over seeds (phantoms, initial weights and labelled "
            "subsets differ); brackets span the seeds' 95 % intervals (patients resampled). The network of "
            "`configs/phantom_mae.yaml` and the phantoms are small: nothing here speaks of patients.",
            "",
        ]
    )
    words = out.read_text(encoding="utf-8").split("\n---\n", 1)[1:] if out.is_file() else []
    write_text(out, text + "".join("\n---\n" + w for w in words))
    say(*text.splitlines())
    return 0


if __name__ == "__main__":
    run(main, Config)

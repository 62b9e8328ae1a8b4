"""What all trainings by folds do in the same way: read, split, train and keep each fold, conclude.

A script's class says what its task needs. Radiographs, networks and pages are the script's business: nothing here knows
of them.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from core.files import make_folder
from core.system import distributed
from core.system.device import resolve_precision
from core.system.signals import EXIT_STOPPED


class CrossValidation:
    """A run of a script that trains folds, from its flags to its results. Subclass and fill in what raises.

    `config`: the script's flags, among them `fold` (None: all) and `precision`. `out`: the folder of the results. `say`
    tells the user something, on the main process. While it runs there are `records` (a table with a row for each
    radiograph), `task`, `root` (the folder that holds all of them), `splits` and `hashes` (sha256 of each file),
    `notices` for the user, and `precision` as it is on `device`.
    """

    def __init__(self, config, device, out: Path, say: Callable[[str], None]):

        self.config = config
        self.device = device
        self.out = out
        self.say = say
        self.precision = resolve_precision(config.precision, device)
        self.notices: list[str] = []

    out_flag: str = "--output_dir"  # what users call the folder of the results

    # what a task fills in -----------------------------------------------------------------------------------------

    def check_flags(self) -> None:
        """Refuse what cannot work before thousands of files are read; ValueErrors that name the flag."""
        raise NotImplementedError

    def check_weights(self) -> None:
        """Main process: that the weights which training begins from are there."""
        raise NotImplementedError

    def read(self) -> tuple[Any, Any, list[str], Path]:
        """Main process: (records, task, notices, root); every file is read once."""
        raise NotImplementedError

    def make_splits(self) -> tuple[Any, Any, list[str], list[str]]:
        """Main process: (records, splits, hashes, notices), written to splits.csv; `records` as they are now, with
        copies of a file under one patient."""
        raise NotImplementedError

    def more_notices(self) -> list[str]:
        """What else the user must know of the folds."""
        return []

    def sizes(self) -> str:
        """One line on radiographs and folds."""
        raise NotImplementedError

    def rounds(self) -> Iterable[tuple]:
        """What is done for all folds, one after the other: what `fold` is called with before the fold's number."""
        return [()]

    def fold(self, *what) -> bool:
        """Train a fold, keep its predictions, unless they are there already; False after a signal."""
        raise NotImplementedError

    def conclude(self) -> None:
        """Main process: the results, once all folds are there."""
        raise NotImplementedError

    # what is the same ---------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Exit status: 0 finished, 143 stopped by a signal with everything saved."""
        self.check_flags()
        distributed.from_main(self.check_weights)
        distributed.from_main(lambda: make_folder(self.out))
        distributed.require_shared(self.out, self.out_flag)
        self.records, self.task, notices, self.root = distributed.from_main(self.read)
        self.records, self.splits, self.hashes, told = distributed.from_main(self.make_splits)
        self.notices = [*notices, *told, *self.more_notices()]
        for notice in self.notices:
            self.say(f"note: {notice}")
        self.say(self.sizes())
        only = self.config.fold
        folds = len(self.splits.folds)
        if only is not None and not 0 <= only < folds:
            raise ValueError(f"--fold {only}: there are {folds} folds, counted from 0")
        for what in self.rounds():
            for number in range(folds) if only is None else [only]:
                if not self.fold(*what, number):
                    self.say(f"stopped by a signal; saved. The same command continues {self.out}")
                    return EXIT_STOPPED
        distributed.from_main(self.conclude)
        distributed.barrier()
        return 0

    def tells(self, number: int) -> bool:
        """Whether what is the same in all folds is told the user with fold `number`."""
        return number == 0 or self.config.fold is not None

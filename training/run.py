"""A run is a folder, and everything needed to continue or to judge it is in there.

    config.json       the flags              environment.json  versions, device, git revision
    identity.json     what decides the numbers
    metrics.jsonl     one line per log       checkpoints/      step_*.pt with a .sha256 beside each; two are kept
    DONE              written when the run has finished

Checkpoints are written atomically and verified when read: a damaged one is named and the one before it is used. Only
the main process writes. This file is the one place that saves and loads training state (always `weights_only`).
"""

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from core.files import (
    append_line,
    atomic,
    free_bytes,
    lock_folder,
    printable,
    readable,
    reason_of,
    remove_leftovers,
    sha256_of,
    write_text,
)
from core.plain_values import check_plain
from core.system import distributed

KEEP = 2
WRITTEN = (
    ".",
    "checkpoints",
    "model",
    "panels",
)  # folders of a run; others below it may belong to other runs


class RunFolder:
    """The run folder, locked for this process (main process only) as long as it lives.

    It is locked before anything is written. `claim` then says what decides the numbers (or `identity`, if that is known
    from the start). `resume`: "auto" continues what is there, "none" refuses a folder with checkpoints, anything else
    is a checkpoint file or another run folder to continue from.
    """

    def __init__(
        self, folder: str | Path, identity: dict[str, Any] | None = None, resume: str = "auto"
    ):
        self.folder = Path(folder)
        self.identity = {}
        self.checkpoints = self.folder / "checkpoints"
        self.notices: list[str] = []
        self._damaged: set[Path] = set()
        self._valid: Path | None = None  # known to be so, by reading or writing it
        self._lock = None
        self.resume_from = None if resume in ("auto", "none") else Path(resume)
        distributed.from_main(lambda: self._open(resume))
        distributed.require_shared(self.folder)
        if identity is not None:
            self.claim(identity)

    def _open(self, resume: str) -> None:
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise FileExistsError(f"{self.folder}: is a file, not a folder for a run") from error
        told = "another process is training in this run folder; wait for it or use another --output_dir"
        self._lock = lock_folder(self.folder, told)
        for place in WRITTEN:
            remove_leftovers(self.folder / place)
        for alone in (
            p for p in self.checkpoints.glob("step_*.sha256") if not p.with_suffix("").exists()
        ):
            alone.unlink(missing_ok=True)
        if resume == "none" and self.saved():
            raise FileExistsError(
                f"{self.folder}: already holds a run at step {_step_of(self.saved()[-1])}; --resume auto continues it, "
                "another --output_dir starts a new one"
            )

    def claim(self, identity: dict[str, Any]) -> None:
        """Every process: `identity` holds what decides the numbers (architecture, data, seed, global batch, schedule).

        A folder whose checkpoints have another identity is refused with the differences.
        """
        self.identity = json.loads(json.dumps(identity, default=str))
        distributed.from_main(self._claim)

    def _claim(self) -> None:
        told = self.folder / "identity.json"
        if told.exists() and (self.saved() or (self.folder / "DONE").exists()):
            self._check_identity(json.loads(told.read_text(encoding="utf-8")), self.folder)
        text = json.dumps(self.identity, indent=2) + "\n"
        if not told.exists() or told.read_text(encoding="utf-8") != text:
            write_text(told, text)

    def saved(self) -> list[Path]:
        """Checkpoint files, oldest first."""
        return sorted(self.checkpoints.glob("step_*.pt"))

    def finished(self, last_step: int) -> bool:
        """Whether this run has already made `last_step` steps and said so; ValueError if it was another run."""
        path = self.folder / "DONE"
        if not path.exists():
            return False
        done = json.loads(path.read_text(encoding="utf-8"))
        self._check_identity(done["identity"], self.folder)
        return done["step"] >= last_step

    def describe(self, config: dict[str, Any]) -> None:
        """Write config.json and environment.json."""

        def write() -> None:
            write_text(
                self.folder / "config.json", json.dumps(config, indent=2, default=str) + "\n"
            )
            write_text(self.folder / "environment.json", json.dumps(environment(), indent=2) + "\n")

        distributed.from_main(write)

    def load(self) -> dict[str, Any] | None:
        """The newest valid training state (CPU tensors), or None. What was wrong with newer ones is in `notices`.

        The main process chooses and verifies; the others read the same file, so all continue from the same step.
        """
        path = distributed.from_main(self._newest)
        if path is None:
            return None
        state = _load(path)
        spoilt = [
            name
            for name, tensor in tensors_in(state.get("objective"))
            if not torch.isfinite(tensor).all()
        ]
        if spoilt:
            raise ValueError(
                f"{path}: NaN or infinite values in {len(spoilt)} tensors, first {printable(spoilt[0])}"
            )
        return state

    def _newest(self) -> Path | None:
        candidates = self.saved()
        if self.resume_from is not None and not candidates:
            source = self.resume_from
            candidates = (
                sorted((source / "checkpoints").glob("step_*.pt")) if source.is_dir() else [source]
            )
            if not candidates or not candidates[-1].is_file():
                raise FileNotFoundError(
                    f"--resume {source}: no checkpoint there (expected a run folder or a .pt file)"
                )
        for path in reversed(candidates):
            problem = damage(path)
            if problem is None:
                self._check_identity(_identity_in(path), path)
                self.notices.append(f"continuing from {path.name}")
                self._valid = path
                return path
            self._damaged.add(path)
            self.notices.append(f"{path.name} is not used: {problem}")
        if candidates:
            raise ValueError(
                f"{candidates[-1].parent}: no valid checkpoint: " + "; ".join(self.notices)
            )
        return None

    def _check_identity(self, saved: dict[str, Any], path: Path) -> None:
        keys = sorted(set(saved) | set(self.identity))
        differing = [k for k in keys if saved.get(k) != self.identity.get(k)]
        if differing:
            told = ", ".join(
                f"{k} was {saved.get(k)!r} and is {self.identity.get(k)!r}" for k in differing
            )
            raise ValueError(
                f"{path}: belongs to another run ({told}); use another --output_dir, or --init_from its model folder"
            )

    def save(self, state: dict[str, Any], step: int) -> Path:
        """Write the training state of `step`, then forget all but it and the one before. Main process only.

        A step that is there already stays as it is: replacing a good file could only lose it. Files that were refused
        as damaged when this run was continued go, too.
        """
        path = self.checkpoints / f"step_{step:010d}.pt"
        (self.folder / "DONE").unlink(missing_ok=True)  # of a run that is now made longer
        if path != self._valid:
            write_state(state | {"identity": self.identity}, path)
        self._valid = path
        self._damaged.discard(path)
        good = [p for p in self.saved() if p not in self._damaged and _step_of(p) <= step]
        for old in (p for p in self.saved() if p not in good[-KEEP:]):
            old.unlink(missing_ok=True)
            _sidecar(old).unlink(missing_ok=True)
        return path

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl (main process only)."""
        if distributed.is_main():
            append_line(self.folder / "metrics.jsonl", json.dumps(record))

    def forget_log_after(self, step: int) -> None:
        """Drop log lines of steps that will be made again."""
        path = self.folder / "metrics.jsonl"

        def cut() -> None:
            if path.exists():
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
                write_text(path, "".join(line + "\n" for line in lines if _step_in(line) <= step))

        distributed.from_main(cut)

    def warn_of_little_room(self, model_bytes: int) -> None:
        """Every process, before the first step: a notice if what a run keeps will not fit on the disk.

        That is, with the two moments of Adam, three times the model in each of the checkpoints kept and in the one that
        is being written, and the exported model.
        """

        def look() -> None:
            need = model_bytes * (3 * (KEEP + 1) + 1) - sum(
                path.stat().st_size for path in self.saved()
            )
            if (free := free_bytes(self.folder)) < need:
                told = f"{self.folder} has {readable(free)} free, and the run's checkpoints need {readable(need)} more"
                self.notices.append(told)

        distributed.from_main(look)

    def done(self, step: int) -> None:
        """Note that the run has finished."""
        note = {"step": step, "unix_time": round(time.time()), "identity": self.identity}
        distributed.from_main(lambda: write_text(self.folder / "DONE", json.dumps(note) + "\n"))


def write_state(state: dict[str, Any], path: Path) -> None:
    """Save tensors and plain values atomically, with the sha256 of the file beside it.

    The sha256 is there first: a file that has its name is complete.
    """
    with atomic(path, hashed=True, expected=bytes_of(state)) as file:
        torch.save(state, file)
        write_text(_sidecar(path), f"{file.sha256}  {path.name}\n")


def read_state(path: Path) -> dict[str, Any]:
    """What `write_state` wrote, on the CPU; ValueError if the file is damaged."""
    if problem := damage(path):
        raise ValueError(f"{path}: {problem}")
    return _load(path)


def _load(path: Path, device: str = "cpu") -> dict[str, Any]:
    """The content of a state file: tensors and plain values, whatever else torch would accept."""
    state = torch.load(path, map_location=device, weights_only=True)
    check_plain(state, path)
    return state


def tensors_in(state: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a nested state, with their names."""
    if isinstance(state, torch.Tensor):
        yield name, state
    elif isinstance(state, dict):
        for key, value in state.items():
            yield from tensors_in(value, f"{name}.{key}" if name else str(key))


def bytes_of(state: Any) -> int:
    """How large a state is on the disk, but for a little."""
    return sum(tensor.nbytes for _, tensor in tensors_in(state))


def _identity_in(path: Path) -> dict[str, Any]:
    """What decided the numbers of a checkpoint; ValueError if the file is none that `write_state` made."""
    try:
        identity = _load(path, "meta")["identity"]  # tensors without memory
    except (
        Exception
    ) as error:  # a file made by others raises a dozen types; none of its code is ever run
        raise ValueError(
            f"{path}: not a checkpoint of a run of this program ({reason_of(error)})"
        ) from None
    if not isinstance(identity, dict):
        raise ValueError(f"{path}: not a checkpoint of a run of this program")
    return identity


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint file, or None: compares its sha256 with the one written beside it."""
    sidecar = _sidecar(path)
    if not sidecar.exists():
        return "its .sha256 file is missing (the save was interrupted, or it was copied without it)"
    if sidecar.read_bytes().split()[:1] != [sha256_of(path).encode()]:
        return "its content does not match its sha256 (damaged or cut short)"
    return None


def environment() -> dict[str, Any]:
    """Versions, machine and git revision, for the record."""
    versions = {}
    for package in ("torch", "torchvision", "timm", "transformers", "numpy", "pillow", "pydicom"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "devices": devices or [f"CPU x {os.cpu_count()}"],
        "processes": distributed.world_size(),
    }


def _git_revision() -> str | None:
    """None outside a git checkout and where git is not installed."""
    root = Path(__file__).resolve().parents[1]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        return (
            subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
            or None
        )
    except FileNotFoundError:
        return None


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))


def _step_in(line: str) -> float:
    """The step of a line of metrics.jsonl; infinity if the line is cut short or damaged."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, TypeError, KeyError):
        return float("inf")

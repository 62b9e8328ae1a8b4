"""Files that nobody here wrote: the test files of other projects, fetched by package name when a test first needs them.

They are kept outside the repository, in the user's cache folder, and reused. A corpus appears there by one rename, so
that a download that was killed is never mistaken for one. Where a package cannot be had the test is skipped.
"""

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skelex-x" / "corpora"
APT = Path("/etc/apt")
STALE = 3600  # seconds after which an unfinished download belongs to nobody


def pillow_images() -> list[Path]:
    """The test pictures of Pillow, of the installed version: of every format and mode, many of them damaged."""
    return python_package(f"pillow=={importlib.metadata.version('pillow')}", "/Tests/images/")


def pydicom_files() -> list[Path]:
    """The test files that come with pydicom: DICOM of every kind, not all of it whole."""
    return installed_files("pydicom", "pydicom/data")


def installed_files(package: str, folder: str) -> list[Path]:
    """The files below a folder of an installed package, without its Python code."""
    root = Path(str(importlib.metadata.distribution(package).locate_file(folder)))
    return files_below(root, lambda path: path.suffix != ".py" and "__pycache__" not in path.parts)


def python_package(name: str, wanted: str, *, source: bool = True) -> list[Path]:
    """The files of a source archive or wheel, by pip, whose path in it matches the regular expression `wanted`."""

    def fetch(folder: Path) -> None:
        kind = ["--no-binary", ":all:"] if source else ["--only-binary", ":all:"]
        _run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                "--retries",
                "1",
                "--timeout",
                "10",
                *kind,
                "--dest",
                str(folder),
                name,
            ],
            folder,
        )

    return _corpus(name, wanted, fetch)


def debian_source(name: str, wanted: str) -> list[Path]:
    """The files of a Debian or Ubuntu source package, by apt-get with the mirrors that this machine already uses."""

    def fetch(folder: Path) -> None:
        options = _private_apt(folder / "apt")
        _run(["apt-get", *options, "-qq", "update"], folder)
        # patches that have left the archive fail the command; the original source, checked by apt, is all we need
        _run(
            ["apt-get", *options, "-qq", "source", "--download-only", name],
            folder,
            needs="*.orig.tar.*",
        )

    return _corpus(f"debian-{name}", wanted, fetch)


def files_below(root: Path, wanted: Callable[[Path], bool] = lambda path: True) -> list[Path]:
    """All regular files below a folder in the order of their names."""
    return sorted(
        path
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and wanted(path)
    )


def _corpus(name: str, wanted: str, fetch: Callable[[Path], None]) -> list[Path]:
    root = _extracted(name, wanted, fetch)
    if isinstance(root, str):
        pytest.skip(f"{name} cannot be had: {root}")
    return files_below(root)


_outcomes: dict[tuple[str, str], Path | str] = {}


def _extracted(name: str, wanted: str, fetch: Callable[[Path], None]) -> Path | str:
    """The folder with the files, fetched if it is not there yet, or why it could not be; asked once in a session."""
    if (name, wanted) not in _outcomes:
        root = CACHE / f"{name}-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}"
        try:
            if not root.is_dir():
                _fetch(root, wanted, fetch)
            _outcomes[name, wanted] = root
        except (OSError, subprocess.SubprocessError) as error:
            _outcomes[name, wanted] = str(error)
    return _outcomes[name, wanted]


def _fetch(root: Path, wanted: str, fetch: Callable[[Path], None]) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    for left in CACHE.glob(".unfinished-*"):
        if time.time() - left.stat().st_mtime > STALE:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=".unfinished-", dir=CACHE, ignore_cleanup_errors=True
    ) as unfinished:
        folder, content = Path(unfinished) / "download", Path(unfinished) / "content"
        folder.mkdir()
        content.mkdir()
        fetch(folder)
        for archive in sorted(folder.iterdir()):
            if archive.is_file():
                _extract(archive, content, re.compile(wanted))
        if not any(content.iterdir()):
            raise FileNotFoundError(f"nothing in it matches {wanted}")
        try:
            os.rename(content, root)
        except OSError:  # another test run was quicker
            if not root.is_dir():
                raise


def _extract(archive: Path, target: Path, wanted: re.Pattern) -> None:
    """Regular files only, and none outside `target`."""
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as content:
            for entry in content.infolist():
                if not entry.is_dir() and wanted.search(entry.filename):
                    content.extract(entry, target)
    elif ".tar." in archive.name:
        with tarfile.open(archive) as content:
            for member in content:
                if member.isfile() and wanted.search(member.name):
                    content.extract(member, target, filter="data")


@cache
def _distribution_sources() -> list[Path]:
    """Where the machine gets its own packages: not the sources that somebody has added."""
    named = [
        APT / "sources.list",
        *(APT / "sources.list.d" / f"{name}.sources" for name in ("debian", "ubuntu")),
    ]
    return [path for path in named if path.is_file()]


def _private_apt(folder: Path) -> list[str]:
    """Options for apt-get to use the same mirrors, for source packages, without touching the machine's own lists."""
    if shutil.which("apt-get") is None or not _distribution_sources():
        raise FileNotFoundError("no apt-get with sources of packages on this machine")
    parts, lists, cached = (folder / name for name in ("parts", "lists", "cache"))
    for path in (parts, lists / "partial", cached / "archives" / "partial"):
        path.mkdir(parents=True)
    for path in _distribution_sources():
        text = path.read_text()
        text = re.sub(r"^Types:.*", "Types: deb-src", text, flags=re.M)
        (parts / path.name.replace("sources.list", "own.list")).write_text(
            re.sub(r"^deb ", "deb-src ", text, flags=re.M)
        )
    places = {"sourcelist": os.devnull, "sourceparts": str(parts)}
    options = [f"Dir::Etc::{key}={place}" for key, place in places.items()]
    options += [
        f"Dir::State::lists={lists}",
        f"Dir::Cache={cached}",
        "Debug::NoLocking=1",
        "APT::Sandbox::User=",
    ]
    return [word for option in options for word in ("-o", option)]


def _run(command: list[str], folder: Path, needs: str = "") -> None:
    """Run a command in a folder; OSError with its last words if it fails, and what it `needs` to leave is not there."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )
    if done.returncode and not (needs and any(folder.glob(needs))):
        words = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise OSError(f"{Path(command[0]).name} ended with status {done.returncode}: {words[-1]}")

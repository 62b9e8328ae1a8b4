"""Finding radiographs: folders, files and lists of files -> paths, each once, in the same order on every machine."""

import csv
import os
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from training.files import printable
from training.tables import checked_names, unescape

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".dicom")
LIST_EXTENSIONS = (".txt", ".csv")


def below(root: Path, name: str) -> Path:
    """The file that a table inside the data set `root` calls `name`.

    ValueError if it lies elsewhere: a table may come from strangers, and neither an absolute path nor `..` nor a link
    leads it to other files of this machine. `root` itself may be a link. A name with accents may be composed otherwise
    (NFC, NFD) than that of the file: macOS writes the one and most programs the other.
    """
    path = root / name
    if not name.isascii() and not os.path.lexists(path):
        forms = (root / unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
        path = next((form for form in forms if os.path.lexists(form)), path)
    try:
        target = "" if "\0" in name else os.path.realpath(path)
    except OSError:  # a name too long
        target = ""
    if not Path(target).is_relative_to(os.path.realpath(root)):
        told = f"{printable(name)[:200]!r} leads out of {printable(root)}"
        if target and Path(os.path.normpath(path)).is_relative_to(os.path.normpath(root)):
            told += f" through a link, to {printable(target)}; put the files there, or make all of the folder one link"
        raise ValueError(told)
    return path


def list_radiographs(folders_or_files, *, recursive: bool = True) -> list[Path]:
    """The radiographs of folders, files and lists of files, each once.

    folders_or_files: a path or several. A folder contributes its files with one of `EXTENSIONS` and, if they begin like
    DICOM, those without extension, sorted by relative path as text; hidden ones are left out; links are followed. A
    `.txt` (one path a line) or `.csv` (column `image`) is a list, its paths relative to itself; it is the user's own
    word, so that absolute paths and `..` are as good as on the command line. Any other file is taken as it is.
    Raises FileNotFoundError (nothing there, nothing found, or a list names missing files) and PermissionError (a folder
    that cannot be listed is never skipped in silence).
    """
    entries = [folders_or_files] if isinstance(folders_or_files, (str, os.PathLike)) else list(folders_or_files)
    entries = [Path(entry) for entry in entries]
    found: list[Path] = []
    seen: set[str] = set()
    for entry in entries:
        if entry.is_dir():
            paths: Iterable[Path] = sorted(_walk(entry, recursive), key=lambda path: path.relative_to(entry).as_posix())
        elif not os.path.lexists(entry):
            raise FileNotFoundError(f"{printable(entry)}: no such folder or file")
        else:
            paths = _read_list(entry) if entry.suffix.lower() in LIST_EXTENSIONS else [entry]
        for path in paths:
            real = os.path.realpath(path)
            if real not in seen:
                seen.add(real)
                found.append(path)
    if not found:
        where = ", ".join(printable(entry) for entry in entries) or "(nothing was given)"
        raise FileNotFoundError(
            f"no radiographs in {where}; looked for {' '.join(EXTENSIONS)} and DICOM files without extension"
        )
    return found


def _walk(root: Path, recursive: bool) -> Iterator[Path]:
    """Radiographs below a folder; linked folders come after the real ones, and none is entered twice."""
    entered: set[str] = set()
    real, links = [root], []
    while real or links:
        folder = real.pop() if real else links.pop()
        if (identity := os.path.realpath(folder)) in entered:
            continue
        entered.add(identity)
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name, reverse=True)
        except PermissionError as error:
            raise PermissionError(f"{printable(folder)}: this folder cannot be listed (permission denied)") from error
        for entry in entries:
            if entry.name.startswith("."):  # hidden, and the ._* shadows that macOS leaves on foreign disks
                continue
            path = folder / entry.name
            if _is_folder(entry):
                if recursive:
                    (links if entry.is_symlink() else real).append(path)
            elif _is_radiograph_name(path):
                yield path


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: whoever reads it says so
        return False


def _is_radiograph_name(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in EXTENSIONS:
        return True
    has_extension = suffix and not suffix[1:].isdigit()  # 1.2.840.5 is a whole name
    if has_extension or path.name == "DICOMDIR" or not path.is_file():
        return False
    try:
        with open(path, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return True  # whoever reads it says why it cannot be


def named_files(source: Path) -> list[tuple[int, str]]:
    """(line, name) of every file that a .txt list (one a line) or a .csv list (column `image`) names.

    Windows line ends, a byte order mark, blank lines and blanks around a name do not matter. ValueError for a list that
    is UTF-16, no file, or has no such column.
    """
    if not source.is_file():  # reading a pipe would wait for ever
        raise ValueError(f"{printable(source)}: a pipe or a device, not a list of files")
    raw = source.read_bytes()
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(f"{printable(source)}: this list is UTF-16; save it as UTF-8")
    lines = raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").splitlines()
    if source.suffix.lower() == ".csv":
        table = csv.DictReader(lines)
        table.fieldnames = checked_names(source, table.fieldnames or [])
        if "image" not in (table.fieldnames or []):
            columns = ", ".join(table.fieldnames or []) or "none"
            raise ValueError(f"{printable(source)}: this list has no column 'image'; its columns are: {columns}")
        try:
            named = [(table.line_num, unescape(row["image"] or "").strip()) for row in table]
        except csv.Error as error:
            raise ValueError(f"{printable(source)}: line {table.line_num} is no line of a table ({error})") from None
    else:
        named = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    return [(number, name) for number, name in named if name]


def _read_list(source: Path) -> list[Path]:
    """The files that a .txt or .csv list names; all of them must exist."""
    paths = [(number, source.parent / name) for number, name in named_files(source)]
    lost = [(number, path) for number, path in paths if not os.path.isfile(path)]  # also too long, or with a NUL
    if lost:
        number, path = lost[0]
        raise FileNotFoundError(
            f"{printable(source)}: {len(lost)} of {len(paths)} named files do not exist, "
            f"first in line {number}: {printable(path)}"
        )
    return [path for _, path in paths]

"""Finding radiographs: folders, files and lists of files -> paths, each once, in the same order on every machine."""

import codecs
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from training.files import printable
from training.tables import read_cells, require_names

EXTENSIONS = tuple(
    """
    .png .jpg .jpeg .jpe .jfif .jif .pjpeg .pjp .tif .tiff .btf .bmp .dib .dcm .dicom .dic .ima
    """.split()
)
LIST_EXTENSIONS = (".txt", ".csv")
# never DICOM: a million annotations beside a million radiographs are not opened
OTHER_EXTENSIONS = frozenset(
    """
    .avi .avif .bz2 .cfg .ckpt .csv .db .doc .docx .gif .gz .h5 .hdf5 .heic .htm .html .ini .ipynb .json .jsonl .log
    .mat .md .mha .mhd .mov .mp4 .nii .npy .npz .parquet .pdf .pkl .ppt .pptx .pt .pth .py .rar .safetensors .sh
    .sha256 .sqlite .svg .tar .tgz .toml .tsv .txt .webp .xls .xlsx .xml .yaml .yml .zip .7z
    """.split()
)
LONGEST_EXTENSION = 12  # what follows the last dot of a longer one is part of a name
SHOWN_EXTENSIONS = 8

# folder -> how many of its files have which extension; by folder, so that one that is listed twice is counted once
PassedOver = dict[str, Counter[str]]


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


def list_radiographs(folders_or_files, *, recursive: bool = True, passed_over: PassedOver | None = None) -> list[Path]:
    """The radiographs of folders, files and lists of files, each once.

    folders_or_files: a path or several. A folder contributes its files with one of `EXTENSIONS` and, whatever they are
    called, those that begin like DICOM, sorted by relative path as text; hidden ones are left out; links are followed.
    A `.txt` (one path a line) or `.csv` (column `image`) is a list, its paths relative to itself; it is the user's own
    word, so that absolute paths and `..` are as good as on the command line. Any other file is taken as it is.
    passed_over: is filled with the other files of the folders; `passed_over_message` puts them into words.
    Raises FileNotFoundError (nothing there, nothing found, or a list names missing files) and PermissionError (a folder
    that cannot be listed is never skipped in silence).
    """
    passed_over = {} if passed_over is None else passed_over
    entries = [folders_or_files] if isinstance(folders_or_files, (str, os.PathLike)) else list(folders_or_files)
    entries = [Path(entry) for entry in entries]
    found: list[Path] = []
    seen: set[str] = set()
    for entry in entries:
        if entry.is_dir():
            paths: Iterable[Path] = sorted(
                _walk(entry, recursive, passed_over), key=lambda path: path.relative_to(entry).as_posix()
            )
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
        others = passed_over_message(passed_over)
        raise FileNotFoundError(
            f"no radiographs in {where}; looked for {' '.join(EXTENSIONS)} and DICOM files of any name"
            + (f"; {others}" if others else "")
        )
    return found


def passed_over_message(passed_over: PassedOver, exclude: Path | None = None) -> str:
    """How many files of the folders were not looked at, by extension; "" if there are none.

    exclude: a folder whose files do not count, such as that of the results.
    """
    own = os.path.join(os.path.realpath(exclude), "") if exclude is not None else None
    total: Counter[str] = Counter()
    for folder, counts in passed_over.items():
        if own is None or not os.path.join(folder, "").startswith(own):
            total += counts
    kinds = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{count:,} {printable(kind)}" for kind, count in kinds[:SHOWN_EXTENSIONS]]
    if rest := kinds[SHOWN_EXTENSIONS:]:
        words.append(f"{sum(count for _, count in rest):,} of {len(rest)} other kinds")
    if not words:
        return ""
    files = "1 file was" if total.total() == 1 else f"{total.total():,} files were"
    return f"{files} not looked at: {', '.join(words)}"


def _walk(root: Path, recursive: bool, passed_over: PassedOver) -> Iterator[Path]:
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
        others: Counter[str] = Counter()
        for entry in entries:
            if entry.name.startswith("."):  # hidden, and the ._* shadows that macOS leaves on foreign disks
                continue
            path = folder / entry.name
            if _is_folder(entry):
                if recursive:
                    (links if entry.is_symlink() else real).append(path)
            elif _is_radiograph(path):
                yield path
            else:
                others[_kind(path)] += 1
        if others:
            passed_over[identity] = others


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: whoever reads it says so
        return False


def _extension(path: Path) -> str:
    """The extension in lower case; "" where the end of the name is none, as in 1.2.840.5."""
    suffix = path.suffix.lower()
    return "" if suffix[1:].isdigit() or len(suffix) > LONGEST_EXTENSION else suffix


def _kind(path: Path) -> str:
    """How a file that is passed over is counted."""
    return path.name.upper() if _is_directory(path) else _extension(path) or "without extension"


def _is_directory(path: Path) -> bool:
    """Whether this is the index of a DICOM medium, which begins like DICOM and holds no picture."""
    return path.name.upper() == "DICOMDIR"


def _is_radiograph(path: Path) -> bool:
    """By its extension or, where that says nothing (CR.1.2.840.A, IM0001, scan.img), by its first bytes."""
    extension = _extension(path)
    if extension in EXTENSIONS:
        return True
    if extension in OTHER_EXTENSIONS or _is_directory(path) or not path.is_file():
        return False
    try:
        with open(path, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return not extension  # whoever reads it says why it cannot be


def named_files(source: Path) -> list[tuple[int, str]]:
    """(line, name) of every file that a .txt list (one a line) or a .csv list (column `image`) names.

    Windows line ends, a byte order mark, blank lines and blanks around a name do not matter. ValueError for a list that
    is UTF-16, no file, or no readable table with that column.
    """
    if not source.is_file():  # reading a pipe would wait for ever
        raise ValueError(f"{printable(source)}: a pipe or a device, not a list of files")
    if source.suffix.lower() == ".csv":
        columns, rows = read_cells(source, raw_bytes=True, blank=True)
        require_names(source, columns, ["image"])
        place = columns.index("image")
        named = [(number, row[place].strip()) for number, row in enumerate(rows, 2)]
    else:
        raw = source.read_bytes()
        if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ValueError(f"{printable(source)}: this list is UTF-16; save it as UTF-8")
        lines = raw.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape").splitlines()
        named = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    return [(number, name) for number, name in named if name]


def listed_groups(source: Path) -> dict[str, str]:
    """Real path of a file -> its cell in the column `group` of a .csv list; {} for a list without that column.

    Files whose cell is empty are left out. ValueError for a file that is listed in two groups.
    """
    columns, rows = read_cells(source, raw_bytes=True, blank=True)
    require_names(source, columns, ["image"])
    if "group" not in columns:
        return {}
    image, place = columns.index("image"), columns.index("group")
    found: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        name, group = row[image].strip(), row[place].strip()
        if name and group and found.setdefault(os.path.realpath(source.parent / name), group) != group:
            raise ValueError(f"{printable(source)}: row {number} puts {printable(name)} into a second group, "
                             f"{printable(group)}")  # fmt: skip
    return found


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

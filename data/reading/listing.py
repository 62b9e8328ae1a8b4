"""Finding radiographs: folders, files and lists of files -> paths, each once, in the same order on every machine."""

import codecs
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from core.files import printable
from core.tables import read_cells, require_names

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
_PADDING = re.compile(r"(?<!\d)0+(?=\d)")
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


class Listings:
    """Finds the files that tables and lists name, and lists each folder once: a million names cost no million look-ups.

    A name without extension means the one file of that name with one of `EXTENSIONS`: ids stand in many tables without.
    The folders must not change meanwhile.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, str]] = {}  # folder -> name -> see `_kind_of`
        self._stems: dict[
            str, dict[str, list[str]]
        ] = {}  # folder -> name without extension -> names
        self._real: dict[str, str] = {}  # folder -> without links

    def is_file(self, path: str | Path) -> bool:
        """As `os.path.isfile`."""
        folder, name = os.path.split(path)
        return self._kind(folder, name) == "file" or os.path.isfile(path)

    def named(self, folder: Path, name: str) -> Path:
        """The file that `name` means in `folder`: a path of any form, as on the command line; it need not be there.

        ValueError if a name without extension fits several files.
        """
        path = folder / name
        if "\0" in name or self._kind(*os.path.split(path)) == "file" or os.path.isfile(path):
            return path
        return self._with_extension(path) or path

    def below(self, root: Path, name: str) -> Path:
        """As `named`, of a table inside the data set `root`: ValueError if it lies elsewhere, see the function `below`.

        An absolute path below the root becomes one that begins with `root`.
        """
        path = root / name
        if "\0" in name or ".." in path.parts:
            return below(root, name)
        folder, last = os.path.split(path)
        real = self._real_of(folder)
        real_root = self._real_of(str(root))
        if real != real_root and not real.startswith(os.path.join(real_root, "")):
            return below(root, name)
        if os.path.isabs(name):
            path = root / os.path.relpath(real, real_root) / last
            folder = str(path.parent)
        if self._kind(folder, last) == "file":
            return path
        found = self._with_extension(path)
        if found is None:
            return below(root, name)
        return (
            found
            if self._kind(folder, found.name) == "file"
            else below(root, os.path.relpath(found, root))
        )

    def _with_extension(self, path: Path) -> Path | None:
        """The only file whose name is that of `path` and an extension, if there is one."""
        folder, name = os.path.split(path)
        if (
            not name
            or name in (".", "..")
            or _extension(path) in EXTENSIONS
            or self._kind(folder, name) in ("link", "other")
        ):
            return None
        found = self._names_by_stem(folder).get(name, [])
        if len(found) > 1:
            told = " and ".join(repr(printable(one)) for one in found[:3])
            raise ValueError(
                f"{printable(name)[:200]!r} can be {told} in {printable(folder)}; write the name with its extension"
            )
        return path.with_name(found[0]) if found else None

    def _kind(self, folder: str, name: str) -> str:
        """What `name` is in a folder; "" if it is not there, or the folder cannot be listed."""
        if folder not in self._kinds:
            try:
                with os.scandir(folder or ".") as listing:
                    self._kinds[folder] = {entry.name: _kind_of(entry) for entry in listing}
            except (OSError, ValueError):  # whoever opens the file says why it cannot be
                self._kinds[folder] = {}
        return self._kinds[folder].get(name, "")

    def _names_by_stem(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._stems:
            self._kind(folder, "")
            stems: dict[str, list[str]] = {}
            for name in sorted(self._kinds[folder]):
                stem, extension = os.path.splitext(name)
                if extension.lower() in EXTENSIONS and self._kinds[folder][name] in (
                    "file",
                    "link",
                ):
                    stems.setdefault(stem, []).append(name)
            self._stems[folder] = stems
        return self._stems[folder]

    def _real_of(self, folder: str) -> str:
        if folder not in self._real:
            try:
                self._real[folder] = os.path.realpath(folder)
            except OSError:  # a name too long
                self._real[folder] = ""
        return self._real[folder]


def _kind_of(entry: os.DirEntry) -> str:
    """ "link", "file", "folder" or "other" (a pipe, a device)."""
    if entry.is_symlink():
        return "link"
    return "file" if entry.is_file() else "folder" if entry.is_dir() else "other"


def list_radiographs(
    folders_or_files, *, recursive: bool = True, passed_over: PassedOver | None = None
) -> list[Path]:
    """The radiographs of folders, files and lists of files, each once.

    folders_or_files: a path or several. A folder contributes its files with one of `EXTENSIONS` and, whatever they are
    called, those that begin like DICOM, sorted by relative path as text; hidden ones are left out; links are followed.
    A `.txt` (one path a line) or `.csv` (column `image`) is a list, its paths relative to itself; it is the user's own
    word, so that absolute paths and `..` are as good as on the command line. A name without extension means the one
    file of that name that has one. Any other file is taken as it is.
    passed_over: is filled with the other files of the folders; `passed_over_message` puts them into words.
    Raises FileNotFoundError (nothing there, nothing found, or a list names missing files) and PermissionError (a folder
    that cannot be listed is never skipped in silence).
    """
    passed_over = {} if passed_over is None else passed_over
    entries = (
        [folders_or_files]
        if isinstance(folders_or_files, (str, os.PathLike))
        else list(folders_or_files)
    )
    entries = [Path(entry) for entry in entries]
    found: list[Path] = []
    seen: set[str] = set()
    for entry in entries:
        if entry.is_dir():
            paths: Iterable[Path] = sorted(
                _walk(entry, recursive, passed_over),
                key=lambda path: path.relative_to(entry).as_posix(),
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
    real = [root]
    links = []
    while real or links:
        folder = real.pop() if real else links.pop()
        if (identity := os.path.realpath(folder)) in entered:
            continue
        entered.add(identity)
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name, reverse=True)
        except PermissionError as error:
            raise PermissionError(
                f"{printable(folder)}: this folder cannot be listed (permission denied)"
            ) from error
        others: Counter[str] = Counter()
        for entry in entries:
            if entry.name.startswith(
                "."
            ):  # hidden, and the ._* shadows that macOS leaves on foreign disks
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


def near_hint(image: str | Path) -> str:
    """What to say of a missing file if its folder has one whose name differs only in zeros in front, or in its
    extension, else ""."""
    folder, name = os.path.split(image)
    try:
        others = sorted(
            os.listdir(folder or "."),
            key=lambda other: (_extension(Path(other)) not in EXTENSIONS, other),
        )
    except (OSError, ValueError):
        return ""
    bare = _PADDING.sub("", name)
    for other in others:
        if bare in (_PADDING.sub("", other), _PADDING.sub("", Path(other).stem)) and _stem_of(
            other
        ) != _stem_of(name):
            advice = "a spreadsheet may have removed the zeros in front, save the column as text"
            return f"; {printable(other)} is: {advice}"
    alike = [
        other
        for other in others
        if _extension(Path(other)) in EXTENSIONS and _stem_of(other) == _stem_of(name)
    ]
    return f"; {printable(alike[0])!r} is there" if alike else ""


def _stem_of(name: str) -> str:
    """A name without the extension of a radiograph, if it has one, in lower case."""
    return (os.path.splitext(name)[0] if _extension(Path(name)) in EXTENSIONS else name).casefold()


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
    image = columns.index("image")
    place = columns.index("group")
    found: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        name = row[image].strip()
        group = row[place].strip()
        if (
            name
            and group
            and found.setdefault(os.path.realpath(source.parent / name), group) != group
        ):
            raise ValueError(
                f"{printable(source)}: row {number} puts {printable(name)} into a second group, "
                f"{printable(group)}"
            )
    return found


def _read_list(source: Path) -> list[Path]:
    """The files that a .txt or .csv list names; all of them must exist."""
    listings = Listings()
    paths = []
    for number, name in named_files(source):
        try:
            paths.append((number, listings.named(source.parent, name)))
        except ValueError as error:
            raise ValueError(f"{printable(source)}: line {number}: {error}") from None
    lost = [
        (number, path) for number, path in paths if not listings.is_file(path)
    ]  # also too long, or with a NUL
    if lost:
        number, path = lost[0]
        raise FileNotFoundError(
            f"{printable(source)}: {len(lost)} of {len(paths)} named files do not exist, "
            f"first in line {number}: {printable(path)}{near_hint(path)}"
        )
    return [path for _, path in paths]

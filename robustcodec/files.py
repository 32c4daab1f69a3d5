"""Where results go, reading and writing them without losing anything, and names that are safe to show.

All outputs of a command are planned before any work begins, so that no two results meet in one file and no
input is overwritten. Files appear whole or not at all.
"""

import os
import secrets
import stat
import sys
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path, PurePath
from typing import BinaryIO, TextIO

from robustcodec.errors import InputError, LimitExceeded, OutputError, UsageError

ENCODED_SUFFIX = ".rbc"
PICTURE_FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WebP",
    ".avif": "AVIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".pbm": "PPM",
    ".pnm": "PPM",
    ".gif": "GIF",
}
"""File name suffixes of pictures and the names that `images` has for their formats."""

_PIECE = 1 << 20
"""Bytes that are read at once."""


@dataclass(frozen=True)
class Job:
    """One file to make: from `source` (None: standard input) to `target` (None: standard output).

    `beside` are further files that the same work gives.
    """

    source: Path | None
    target: Path | None
    beside: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the job writes; none on standard output."""
        return () if self.target is None else (self.target, *self.beside)


@dataclass(frozen=True)
class Unread:
    """A folder whose files could not be listed, and why."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class Plan:
    """What to do, in the order of the inputs, what is left alone because its result exists, and what was not seen.

    `elsewhere` counts the files that are left to other shards.
    """

    jobs: tuple[Job, ...]
    skipped: tuple[Job, ...]
    unread: tuple[Unread, ...] = ()
    elsewhere: int = 0


@dataclass(frozen=True)
class Shard:
    """The share of one of `count` commands that divide the same files among them: `index` is 1 to `count`."""

    index: int = 1
    count: int = 1


WHOLE = Shard()
"""All that there is to do."""


def plan_outputs(
    inputs: Sequence[str],
    output: str | None,
    *,
    suffix: str,
    found: Collection[str],
    recursive: bool = False,
    overwrite: bool = False,
    mark: str | None = None,
    beside: Sequence[str] = (),
    replaceable: Callable[[Path], bool] = lambda file: False,
) -> Plan:
    """Decide where the result of each input goes, before any work.

    `inputs` are files, folders (with `recursive`; files in them count if their suffix is in `found`) or `-`. `output`
    is a file (overwritten), a folder, `-`, or None for a name beside the input. Names derived from inputs end in
    `suffix`, and existing ones are skipped unless `overwrite`. Inputs whose name is that of another one with `mark`
    behind it were made from that one, and are passed over. `beside` are the endings of files that are written beside
    each result: it exists if all of them do. Where some do, they may be of another origin, so that only `overwrite`
    replaces those that are not `replaceable`. Raises UsageError if the arguments
    contradict each other, if two inputs would be written to one file, or if an input or such a file would be
    overwritten; OutputError for a folder that is not there, or is none.
    """
    _check_forgotten_option(inputs, output, found)
    unread: list[Unread] = []
    sources = [source for name in inputs for source in _expand(name, found, recursive, unread)]
    if mark is not None:
        sources = _without_results(sources, mark)
    file, folder = _destination(inputs, output, len(sources))
    jobs = []
    for source, place in sources:
        if file or output == "-":
            jobs.append(Job(source, file))
        elif source is None and folder is None:
            jobs.append(Job(None, None))
        elif source is None:
            raise UsageError("standard input has no name to go by; give -o a file")
        else:
            jobs.append(Job(source, (folder / place if folder else source).with_suffix(suffix)))

    jobs = [replace(job, beside=_beside(job.target, beside)) for job in _without_doubles(jobs)]
    _check_collisions(jobs, named=file is not None)
    keep = file is not None or overwrite
    to_do = tuple(job for job in jobs if keep or not _done(job))
    if not overwrite:
        _check_beside(to_do, replaceable)
    return Plan(
        jobs=to_do,
        skipped=tuple(job for job in jobs if not keep and _done(job)),
        unread=tuple(unread),
    )


def plan_inputs(inputs: Sequence[str], *, found: Collection[str], recursive: bool = False) -> Plan:
    """Plan jobs that write nothing: each has its source for a target. Inputs and errors are those of `plan_outputs`."""
    unread: list[Unread] = []
    sources = [source for name in inputs for source, _ in _expand(name, found, recursive, unread)]
    return Plan(jobs=tuple(Job(source, source) for source in dict.fromkeys(sources)), skipped=(), unread=tuple(unread))


def share(plan: Plan, shard: Shard) -> Plan:
    """Leave of a plan what one shard does: every `count`-th file by name, whether its result exists or not.

    So the shards of the same inputs have all files among them, each once, whenever and wherever they run. Raises
    UsageError for standard input and output, which only one process has.
    """
    if shard.count == 1:
        return plan
    jobs = (*plan.jobs, *plan.skipped)
    if any(job.source is None or job.target is None for job in jobs):
        raise UsageError("--shard divides files, and standard input or output is none; name files or folders")
    ours = set(sorted(jobs, key=lambda job: str(job.source))[shard.index - 1 :: shard.count])
    return replace(
        plan,
        jobs=tuple(job for job in plan.jobs if job in ours),
        skipped=tuple(job for job in plan.skipped if job in ours),
        elsewhere=len(jobs) - len(ours),
    )


def check_streams(plan: Plan) -> None:
    """Refuse to write a result to a terminal or to wait for one to type a picture."""
    if any(job.target is None for job in plan.jobs) and sys.stdout.isatty():
        raise UsageError("standard output is a terminal; give -o a file or pipe the result into a program")
    if any(job.source is None for job in plan.jobs) and sys.stdin.isatty():
        raise UsageError("standard input is a terminal; name a file or pipe one into this program")


def check_writable(plan: Plan) -> None:
    """Raise OutputError if a file of a plan could not be written: for work that is too long to fail at its end."""
    files = [file for job in plan.jobs for file in job.files]
    for file in files:
        if is_folder(file):
            raise OutputError(f"{clean_name(file)} is a folder and cannot be replaced; choose another name")
    for folder in dict.fromkeys(file.parent for file in files if not _is_device(file)):
        _try_folder(folder)


def read_input(source: Path | None, max_bytes: int, check: Callable[[bytes], object] | None = None) -> bytes:
    """All bytes of a file, or of standard input for None.

    `check` is called with how it begins (at most a mebibyte) before more is read, and may raise. Raises InputError if
    the file cannot be read and LimitExceeded, having read no more, above `max_bytes`.
    """
    name = "standard input" if source is None else clean_name(source)
    try:
        if source is None:
            data = _read_some(sys.stdin.buffer, max_bytes + 1, check)
        else:
            with source.open("rb") as file:
                data = _read_some(file, max_bytes + 1, check)
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror}") from error
    if len(data) > max_bytes:
        raise LimitExceeded(f"{name} has more than {max_bytes} bytes, the most that the limits allow")
    return data


def write_output(target: Path | None, data: bytes) -> None:
    """Write a result to its file (see `write_atomically`), making its folder, or to standard output for None.

    Raises OutputError, or BrokenPipeError if whoever reads standard output has gone.
    """
    if target is None:
        write_stdout(data)
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {clean_name(target.parent)} cannot be made: {error.strerror}") from error
    write_atomically(target, data)


def write_stdout(data: bytes) -> None:
    """Write to standard output. Raises OutputError, or BrokenPipeError if whoever reads it has gone."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        discard(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputError(f"standard output cannot be written: {error.strerror}") from error


def discard(stream: TextIO) -> None:
    """Let what a stream holds, and what is written to it from now on, go nowhere.

    What is still buffered after a failure would fail once more, loudly, when Python closes the stream.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def write_atomically(path: Path, data: bytes) -> None:
    """Make `path` hold `data`, at once and whole: after a failure or a crash it is what it was before.

    The data goes to a temporary file in the same folder (`.robustcodec-*.tmp`, which only kill -9 or a power
    cut leaves behind) that then takes the name. A symbolic link is replaced, not followed; a file keeps its
    permissions; what is no regular file (a pipe, /dev/null) is written into. Raises OutputError.
    """
    try:
        if _is_device(path):
            with path.open("wb", buffering=0) as device:
                _write_all(device.fileno(), data)
        else:
            _replace(path, data)
    except OSError as error:
        raise OutputError(f"{clean_name(path)} cannot be written: {error.strerror}") from error


def clean_name(name: str | PurePath) -> str:
    """A name, or any text, that is safe on a terminal and in a log: one line of visible characters.

    Control and format characters, and bytes that are no UTF-8, become \\xNN, \\uNNNN or \\UNNNNNNNN.
    """
    return "".join(map(_clean_character, str(name)))


def _clean_character(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python carries a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _read_some(file: BinaryIO, max_bytes: int, check: Callable[[bytes], object] | None) -> bytes:
    """At most `max_bytes`, in pieces: a single call would allocate as much as it may read."""
    part = file.read(min(max_bytes, _PIECE))
    if check is not None:
        check(part)
    whole = BytesIO()  # which grows, and gives its bytes, without a second copy
    while part:
        whole.write(part)
        part = file.read(min(max_bytes - whole.tell(), _PIECE))
    return whole.getvalue()


def _check_forgotten_option(inputs: Sequence[str], output: str | None, found: Collection[str]) -> None:
    if len(inputs) == 2 and output is None and not Path(inputs[1]).exists():
        suffix = Path(inputs[1]).suffix.lower()
        if suffix and suffix not in found:
            name = clean_name(inputs[1])
            raise UsageError(f"{name} does not exist; if it is to be the output, write -o {name}")


def _destination(inputs: Sequence[str], output: str | None, count: int) -> tuple[Path | None, Path | None]:
    """The file or the folder that `output` means; neither for standard output and for names beside inputs."""
    if output == "-" and count > 1:
        raise UsageError(f"standard output takes one result, not {count}; give -o a folder")
    if output is None or output == "-":
        return None, None
    path = Path(output)
    if count != 1 or output.endswith(("/", os.sep)) or is_folder(path) or is_folder(Path(inputs[0])):
        _check_folder(path)
        return None, path
    _check_folder(path.parent)
    if not is_folder(path.parent):
        raise OutputError(f"the folder {clean_name(path.parent)} does not exist; make it first")
    return path, None


def _check_folder(path: Path) -> None:
    if _exists(path) and not is_folder(path):
        raise OutputError(f"{clean_name(path)} is no folder, which -o needs there; choose another name")


def _expand(
    name: str, found: Collection[str], recursive: bool, unread: list[Unread]
) -> Iterator[tuple[Path | None, PurePath]]:
    """The files that an argument stands for, each with its place below an output folder; adds to `unread`."""
    path = Path(name)
    if name == "-":
        yield None, PurePath()
    elif not is_folder(path):
        yield path, PurePath(path.name)
    elif not recursive:
        raise UsageError(f"{clean_name(name)} is a folder; add --recursive to take what is in it")
    else:
        # Links to folders are not followed: they could lead out of the tree or round in circles.
        for folder, folders, names in os.walk(path, onerror=lambda error: unread.append(_unread(error))):
            folders.sort()
            for file in sorted(names):
                inside = Path(folder, file)
                if inside.suffix.lower() in found and _may_be_file(inside):
                    yield inside, inside.relative_to(path)


def _beside(target: Path | None, endings: Sequence[str]) -> tuple[Path, ...]:
    """The files beside a result: its name without the suffix of a picture, but with any other, and each ending."""
    if target is None:
        return ()
    stem = target.stem if target.suffix.lower() in PICTURE_FORMATS else target.name
    return tuple(target.with_name(f"{stem}{ending}") for ending in endings)


def _without_results(sources: Sequence[tuple[Path | None, PurePath]], mark: str) -> list[tuple[Path | None, PurePath]]:
    stems = {path.with_suffix("") for path, _ in sources if path is not None}
    return [
        (path, place)
        for path, place in sources
        if path is None or mark not in path.name or path.parent / path.name.partition(mark)[0] not in stems
    ]


def _unread(error: OSError) -> Unread:
    return Unread(Path(error.filename), error.strerror or type(error).__name__)


def pictures_below(folder: Path) -> list[Path]:
    """All picture files below a folder, sorted by their path inside it."""
    files = [path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_FORMATS and path.is_file()]
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix())


def is_folder(path: Path) -> bool:
    """Whether there is a folder of this name that may be looked at."""
    try:
        return path.is_dir()
    except OSError:  # it may not be looked at; whoever reads or writes it will be told so
        return False


def _may_be_file(path: Path) -> bool:
    try:
        return path.is_file() or not path.exists()  # a link that leads nowhere is named by whoever reads it
    except OSError:  # as above
        return True


def _without_doubles(jobs: Sequence[Job]) -> list[Job]:
    """A file named twice (or once by its folder) is done once."""
    return list({(_place(job.source), _place(job.target)): job for job in jobs}.values())


def _check_collisions(jobs: Sequence[Job], *, named: bool) -> None:
    """Refuse two results in one file and results over inputs; `named` if -o names the file of a single result."""
    taken: dict[str | None, Job] = {}
    for job in jobs:
        other = taken.setdefault(_place(job.target), job)
        if other is not job:
            assert job.source is not None and job.target is not None  # several results, none on standard output
            name, free = clean_name(job.source), job.target.with_name(f"{job.source.name}{job.target.suffix}")
            raise UsageError(
                f"{clean_name(str(other.source))} and {name} would both be written to {clean_name(job.target)}; give "
                f"{name} a command of its own, with another name for its result: -o {clean_name(free)}"
            )
    inputs = {identity for job in jobs if job.source and (identity := _identity(job.source))}
    for job in jobs:
        for file in job.files:
            if (identity := _identity(file)) not in inputs:
                continue
            name = clean_name(file)
            if job.source and not named and _identity(job.source) == identity:
                raise UsageError(
                    f"{name} would be overwritten by its own result, since results of this command end in "
                    f"{file.suffix}; give a file of another kind, or name the result with -o"
                )
            raise UsageError(f"{name} is an input and would be overwritten; choose another name")


def _check_beside(jobs: Sequence[Job], replaceable: Callable[[Path], bool]) -> None:
    """Refuse to replace files beside a result, which may be of another origin."""
    for file in (file for job in jobs for file in job.beside):
        if _exists(file) and not replaceable(file):
            raise UsageError(f"{clean_name(file)} exists already; replace it with --overwrite, or choose another name")


def _done(job: Job) -> bool:
    return job.target is not None and all(_exists(file) for file in job.files)


def _place(path: Path | None) -> str | None:
    """Which entry of which folder a path names; the entry itself may be a link, since links are replaced."""
    return None if path is None else os.path.normcase(_resolved(path.parent) / path.name)


def _resolved(folder: Path) -> Path:
    """Where a folder really is; unlike Path.resolve, links that lead round in circles are no error but stay."""
    return Path(os.path.realpath(folder))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        info = path.stat()
    except OSError:
        return None
    return (info.st_dev, info.st_ino) if stat.S_ISREG(info.st_mode) else None


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


def _try_folder(folder: Path) -> None:
    """Write into a folder, or into the one that it would be made in, and leave no trace. Raises OutputError."""
    from tempfile import TemporaryFile

    there = next((place for place in (folder, *folder.parents) if _exists(place)), folder)
    try:
        with TemporaryFile(dir=there, prefix=".robustcodec-", suffix=".tmp"):
            pass
    except OSError as error:
        raise OutputError(f"the folder {clean_name(folder)} cannot be written: {error.strerror}") from error


def _is_device(path: Path) -> bool:
    """Whether to write into `path` instead of replacing it.

    /dev/stdout and /proc/self/fd/1 may lead to a regular file but must not be replaced themselves.
    """
    folder = _resolved(path.parent)
    if folder.is_relative_to("/dev") or folder.is_relative_to("/proc"):
        # Shared memory is a file system like any other.
        return not folder.is_relative_to("/dev/shm")
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode)


def _replace(path: Path, data: bytes) -> None:
    try:
        kept_mode = stat.S_IMODE(path.lstat().st_mode) if stat.S_ISREG(path.lstat().st_mode) else None
    except OSError:
        kept_mode = None
    temporary = path.parent / f".robustcodec-{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)  # POSIX and Windows
    # Never more open than the file that it replaces, not even for a moment.
    descriptor = os.open(temporary, flags, 0o666 if kept_mode is None else kept_mode & 0o777)
    try:
        try:
            _write_all(descriptor, data)
            if kept_mode is not None and hasattr(os, "fchmod"):
                os.fchmod(descriptor, kept_mode & 0o777)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut, where the system can."""
    if os.name == "posix":
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

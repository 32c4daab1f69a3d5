"""A set of files that is written again and again: what is no longer among it goes, and nothing else does."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from robustcodec.errors import OutputError
from robustcodec.files import clean_name, write_output

SUMS = "SHA256SUMS"
"""Names the files that were written, with their hashes, as sha256sum does."""

_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9.-]+)")
"""A hash and a name, which is no path."""


def replace_set(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files by their names, and remove those that an earlier call wrote, if they are as it wrote them.

    Names have letters, digits, dots and hyphens only. Raises OutputError.
    """
    stale = [path for name, path in _written(folder) if name not in files]
    for name, content in files.items():
        write_output(folder / name, content)
    for path in stale:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{clean_name(path)} cannot be removed: {error.strerror}") from error
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items()))
    write_output(folder / SUMS, sums.encode())
    return [folder / name for name in (*files, SUMS)]


def _written(folder: Path) -> Iterator[tuple[str, Path]]:
    """Give names and paths of the files that an earlier call wrote and that nobody has changed since."""
    with suppress(OSError):
        for line in (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines():
            found = _LINE.fullmatch(line)
            if found is None:
                continue
            with suppress(OSError):
                path = folder / found[2]
                if path.is_file() and not path.is_symlink() and _hash(path) == found[1]:
                    yield found[2], path


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

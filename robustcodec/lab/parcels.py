"""Files for another machine: a folder of pieces of limited size, with an index that finds any damage.

parcel.json     for each file its size, its sha256 and its pieces
NAME            a file that fits into one piece
NAME.00 ...     the pieces of a larger one
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustcodec.errors import TrainingError

MIB = 2**20
INDEX = "parcel.json"


def write_parcel(folder: Path, files: Mapping[str, bytes], *, most: int = 60 * MIB, piece: int = 15 * MIB) -> None:
    """Write files by name into a folder: together at most `most` bytes, in pieces of at most `piece` bytes.

    Files of an earlier parcel in the folder are removed. The index is written last, so a parcel that was cut short
    is not taken for a whole one.
    """
    total = sum(map(len, files.values()))
    if total > most:
        largest = ", ".join(f"{name} {size / MIB:.1f}" for name, size in _largest(files))
        raise TrainingError(
            f"the parcel would be {total / MIB:.1f} MiB, more than the {most / MIB:.1f} allowed ({largest}); "
            "take fewer training crops or allow more"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / INDEX).exists():
        for entry in _entries(folder).values():
            for name in entry["pieces"]:
                (folder / name).unlink(missing_ok=True)
        (folder / INDEX).unlink()
    index = {}
    for name, data in files.items():
        pieces = [data[start : start + piece] for start in range(0, len(data), piece)] or [b""]
        names = [name] if len(pieces) == 1 else [f"{name}.{number:02d}" for number in range(len(pieces))]
        for part, content in zip(names, pieces, strict=True):
            (folder / part).write_bytes(content)
        index[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pieces": names}
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def read_parcel(folder: Path) -> dict[str, bytes]:
    """Read a parcel's files, joined and checked."""
    files = {}
    for name, entry in _entries(folder).items():
        try:
            data = b"".join((folder / piece).read_bytes() for piece in entry["pieces"])
        except OSError as error:
            raise TrainingError(f"{folder} lacks {error.filename}; copy the whole folder again") from error
        if len(data) != entry["size"] or hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise TrainingError(f"{folder / name} was damaged on its way; copy the whole folder again")
        files[name] = data
    return files


def _entries(folder: Path) -> dict[str, Any]:
    try:
        entries = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(f"{folder} is no parcel: it has no {INDEX}") from error
    except ValueError as error:
        raise TrainingError(f"{folder / INDEX} is damaged ({error}); copy the whole folder again") from error
    if not isinstance(entries, dict) or not all(_is_bare(name) and _is_entry(entry) for name, entry in entries.items()):
        raise TrainingError(f"{folder / INDEX} is damaged (not an index of files); copy the whole folder again")
    return entries


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and type(entry.get("size")) is int
        and isinstance(entry.get("sha256"), str)
        and isinstance(entry.get("pieces"), list)
        and all(map(_is_bare, entry["pieces"]))
    )


def _is_bare(name: object) -> bool:
    """Whether this names a file in the parcel's own folder, other than the index."""
    return isinstance(name, str) and name not in ("", ".", "..", INDEX) and not set(name) & set("/\\:\0")


def _largest(files: Mapping[str, bytes]) -> list[tuple[str, int]]:
    return sorted(((name, len(data)) for name, data in files.items()), key=lambda item: -item[1])[:3]

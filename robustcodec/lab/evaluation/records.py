"""Results as rows of JSON lines: one row for one picture, coded by one model at one quality, clean or attacked."""

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from types import UnionType
from typing import Any, TypeVar, get_args, get_type_hints

from robustcodec import __version__
from robustcodec.errors import InputError, OutputError
from robustcodec.files import clean_name
from robustcodec.lab.locks import held
from robustcodec.measure import Figures

RESULTS = "results.jsonl"
_ALL_RESULTS = "results*.jsonl"

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Which picture: its set, its name there, the centre crop taken of it (None: whole) and a hash of its pixels."""

    data: str
    name: str
    crop: int | None
    width: int
    height: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Assault:
    """Which attack, with every option that its result depends on.

    `surrogate` and `surrogate_fingerprint` name the model that pictures were crafted on; None: the one measured.
    """

    method: str
    target: str
    bounded: bool
    epsilon: float
    steps: int
    seed: int
    restarts: int
    surrogate: str | None = None
    surrogate_fingerprint: str | None = None
    precision: str = "float32"

    @property
    def label(self) -> str:
        """The name by which `--attacks` asks for it."""
        return f"{self.method}:{self.target}{'' if self.bounded else '-free'}"

    @property
    def options(self) -> str:
        """The other options, as names of files have them."""
        precision = "" if self.precision == "float32" else f"-{self.precision}"
        return f"e{self.epsilon:g}-n{self.steps}-s{self.seed}-r{self.restarts}{precision}"


@dataclass(frozen=True, kw_only=True)
class Crafting:
    """How a picture came about: shares of gradients that were zero and not finite, and (step, score) on the way.

    `shrunk` is the share of its length that the noise kept to hold the bound of the threat; `torch_bpp` and
    `torch_psnr` are what the crafting network itself expects of the result, None if nothing does.
    """

    zero: float
    not_finite: float
    shrunk: float
    trace: tuple[tuple[int, float], ...]
    torch_bpp: float | None
    torch_psnr: float | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One result. `attack` and `crafting` are None for clean rows, `holds` whether the threat's bound was kept.

    `image` is where the coded picture lies, relative to the folder of results. `version` is the release that the result
    depends on most: of an attacked row the one that crafted the picture, of a clean one the one that measured it.
    """

    model: str
    fingerprint: str
    quality: float
    picture: Picture
    attack: Assault | None
    figures: Figures
    holds: bool | None
    crafting: Crafting | None
    image: str
    version: str

    @property
    def key(self) -> tuple[object, ...]:
        """What identifies a result: two rows of one key say the same."""
        return (self.model, self.fingerprint, self.quality, self.picture, self.attack)

    @property
    def label(self) -> str:
        """The attack's name, or clean."""
        return self.attack.label if self.attack else "clean"


def to_json(value: Any) -> str:
    """Write a row as a line of JSON; numbers that are not finite (the PSNR of equal pictures) become null."""
    return json.dumps(finite(asdict(value)), allow_nan=False)


def finite(value: Any) -> Any:
    """A value as strict JSON can hold it: numbers that are not finite are None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def from_json(line: str) -> Row:
    """Read a line that `to_json` wrote. Raises ValueError."""
    try:
        document = json.loads(line)
        picture, figures = build(Picture, document.pop("picture")), build(Figures, document.pop("figures"))
        attack, crafting = document.pop("attack"), document.pop("crafting")
        if attack is not None:
            attack = build(Assault, attack)
        if crafting is not None:
            crafting["trace"] = tuple(
                (int(step), math.nan if score is None else float(score)) for step, score in crafting["trace"]
            )
            crafting = build(Crafting, crafting)
        parts = {"picture": picture, "figures": figures, "attack": attack, "crafting": crafting}
        row = build(Row, document | parts)
        # names go into files, which hold UTF-8
        json.dumps(asdict(row), ensure_ascii=False).encode()
    except (AttributeError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from error
    # files are written and read by these
    if any("/" in name or name in (".", "..") for name in (picture.data, picture.name)):
        raise ValueError("names that are paths")
    if PurePosixPath(row.image).is_absolute() or ".." in PurePosixPath(row.image).parts:
        raise ValueError("a picture outside the folder")
    return row


def read_rows(folder: Path) -> list[Row]:
    """Read all results of a folder, those of every shard; of rows with one key the last counts.

    A last line that was cut off, as a crash leaves it, is passed over. Raises InputError for what is no result.
    """
    rows: dict[tuple[object, ...], Row] = {}
    for path in sorted(folder.glob(_ALL_RESULTS)):
        text = path.read_bytes()
        for number, line in enumerate(text[: text.rfind(b"\n") + 1].split(b"\n")[:-1], 1):
            try:
                row = from_json(line.decode())
            except ValueError as error:
                raise InputError(
                    f"{clean_name(path)}, line {number}, is no result of evaluate in release {__version__}; name "
                    "another folder, or remove the line if it is damaged"
                ) from error
            rows[row.key] = row
    return list(rows.values())


def writing(path: Path) -> AbstractContextManager[None]:
    """Hold a file of results, which is made with its folder, for this process alone. Raises OutputError."""
    return held(path, OutputError, name=clean_name(path), busy=f"writing {clean_name(path)}")


def append_row(path: Path, row: Row) -> None:
    """Add a row so that a crash or a power cut leaves it whole or not there. Raises OutputError."""
    try:
        with path.open("ab+") as file:
            _end_cleanly(file)
            file.write(f"{to_json(row)}\n".encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(f"{clean_name(path)} cannot be written: {error.strerror}") from error


def mean(values: Iterable[float]) -> float:
    """Mean of the finite values; nan if there are none."""
    kept = [value for value in values if math.isfinite(value)]
    return math.fsum(kept) / len(kept) if kept else math.nan


def _end_cleanly(file: Any) -> None:
    """Cut off what a crash left of a last line."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - (1 << 20)))
    tail = file.read()
    if tail and not tail.endswith(b"\n"):
        file.truncate(end - len(tail) + tail.rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)


def build(kind: type[Value], values: Mapping[str, Any]) -> Value:
    """Make a dataclass of JSON values; null where a number is promised is infinity, as `finite` made it.

    Raises ValueError or TypeError for values of another kind.
    """
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    if set(values) != set(names):
        raise ValueError(f"fields {sorted(set(values) ^ set(names))} are missing or unknown")
    given = {name: math.inf if values[name] is None and hints[name] is float else values[name] for name in names}
    wrong = [name for name in names if not _fits(given[name], hints[name])]
    if wrong:
        raise ValueError(f"fields {wrong} are of another type")
    return kind(**given)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a field's type; a whole number may stand for any number."""
    if isinstance(hint, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if hint is float:
        return isinstance(value, float) or (_fits(value, int) and abs(value) <= sys.float_info.max)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return not isinstance(hint, type) or isinstance(value, hint)

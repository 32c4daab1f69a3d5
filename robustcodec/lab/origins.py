"""Where an attacked picture comes from, as its PNG file says: how it was made, of what, and with what success."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from robustcodec.errors import RobustcodecError
from robustcodec.files import read_input
from robustcodec.lab.evaluation.records import Assault, build, finite
from robustcodec.lab.png_text import text_of, with_text
from robustcodec.measure import Figures

_KEYWORD = "robustcodec attack"
_SHOWS = "robustcodec attack shows"
_LONGEST = 80
"""Characters of a value that are shown: what a file says may be anything."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """All that an attacked picture depends on but the clean one: the model that was measured, and the attack."""

    model: str
    fingerprint: str
    quality: float
    attack: Assault

    def differences(self, asked: "Order") -> list[str]:
        """Say in what this order is another one."""
        pairs = zip(self._aspects(), asked._aspects(), strict=True)
        return [f"{was:.{_LONGEST}}, not {now}" for (one, was), (other, now) in pairs if one != other]

    def _aspects(self) -> Iterator[tuple[object, str]]:
        """Give what a result depends on, and how to call it."""
        attack = self.attack
        yield self.fingerprint, f"model {self.model} {self.fingerprint[:8]}"
        crafted_on = f"{attack.surrogate} {(attack.surrogate_fingerprint or '')[:8]}" if attack.surrogate else "itself"
        yield attack.surrogate_fingerprint, f"crafted on {crafted_on}"
        yield attack.label, f"attack {attack.label}"
        for name, value in (
            ("quality", self.quality),
            ("epsilon", attack.epsilon),
            ("steps", attack.steps),
            ("seed", attack.seed),
            ("restarts", attack.restarts),
            ("precision", attack.precision),
        ):
            yield value, f"{name} {value}"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How a picture was attacked, the digest of its clean pixels, and what came of it: figures of real files.

    `holds` tells whether the threat's bound holds on the codec that was measured, `shrunk` the share of its length that
    the noise kept to hold it where it was crafted.
    """

    order: Order
    clean: str
    holds: bool
    shrunk: float
    before: Figures
    after: Figures


def with_origin(png: bytes, origin: Origin) -> bytes:
    """Write an origin into a PNG file; the same one gives the same bytes."""
    return with_text(png, _KEYWORD, json.dumps(finite(asdict(origin)), allow_nan=False))


def read_origin(path: Path, max_bytes: int) -> Origin | None:
    """Read the origin that an existing file says it has; None if it says none, or cannot be read."""
    return origin_of(_bytes_of(path, max_bytes))


def origin_of(data: bytes) -> Origin | None:
    """Read the origin that a file says it has, if it says one: any bytes may be given."""
    text = text_of(data, _KEYWORD)
    if text is None:
        return None
    try:
        document = json.loads(text)
        order = document["order"]
        order["attack"] = build(Assault, order["attack"])
        document["order"] = build(Order, order)
        for name in ("before", "after"):
            document[name] = build(Figures, document[name])
        return build(Origin, document)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def as_exhibit(png: bytes, name: str) -> bytes:
    """Write into the PNG file of a picture beside an attacked one what it shows."""
    return with_text(png, _SHOWS, name)


def is_exhibit(path: Path, max_bytes: int) -> bool:
    """Whether an existing file says that it is a picture beside an attacked one."""
    return text_of(_bytes_of(path, max_bytes), _SHOWS) is not None


def _bytes_of(path: Path, max_bytes: int) -> bytes:
    """Read a file; nothing if it is none, and so might never end, or cannot be read."""
    try:
        return read_input(path, max_bytes) if path.is_file() else b""
    except (OSError, RobustcodecError):
        return b""

"""Makes hostile models out of a sound one: manifest and arrays changed, checksums repaired."""

import hashlib
import json
import random
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from regenerate import CHENG, TINY, dithered
from safetensors.numpy import load, save

from robustcodec.bundle import ANALYSIS, ENTROPY, MANIFEST, PARTS, SYNTHESIS

WEIGHTS = Path(__file__).parents[2] / "weights"

Parts = dict[str, bytes]


def _sound() -> Iterator[tuple[dict[str, Any], Parts]]:
    """Models of both architectures, as they are and with all that the format has: limits, a contract and dither."""
    contract = json.loads((WEIGHTS / "hyper-base" / "manifest.json").read_bytes())["contract"]
    for folder in (TINY, CHENG):
        manifest = json.loads((folder / "manifest.json").read_bytes())
        parts = {name: (folder / name).read_bytes() for name in PARTS}
        yield manifest, parts
        arrays = load(parts[SYNTHESIS])
        limits = {
            name.replace(".beta", ".limit"): np.full((*beta.shape, 1, 1), 8, beta.dtype)
            for name, beta in arrays.items()
            if name.endswith(".beta")
        }
        parts = parts | {SYNTHESIS: save({**arrays, **limits})}
        yield {**manifest, "contract": contract, "parts": _sums(parts)}, parts
        with tempfile.TemporaryDirectory() as scratch:
            path = dithered(Path(scratch) / "dithered", folder).path
            parts = parts | {ENTROPY: (path / ENTROPY).read_bytes()}
        yield {**manifest, "parts": _sums(parts)}, parts


def _sums(parts: Parts) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}


_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 1 << 31, 1 << 63, 1 << 200, 0.0, -0.5, 1e308, "", "hyper", "../x", "\x1b[0m"),
    *([], {}, [8, 12], [[]], {"a": 1}, "0" * 64, [None] * 1000),
)


_SOUND = tuple(_sound())


def write_mutant(draw: random.Random, folder: Path) -> tuple[str, int]:
    """Write a hostile model into an existing folder; give its kind and what tells it from others."""
    manifest, parts = draw.choice(_SOUND)
    manifest, parts = json.loads(json.dumps(manifest)), dict(parts)
    kind = draw.choice(("values of the manifest", "contract", "arrays", "bytes of a part", "bytes of the manifest"))
    if kind in ("values of the manifest", "contract"):
        document = manifest["contract"] if kind == "contract" and manifest["contract"] else manifest
        for _ in range(draw.choice((1, 1, 2, 4))):
            _change_value(draw, document)
    elif kind == "arrays":
        name = draw.choice((ENTROPY, SYNTHESIS, SYNTHESIS, ANALYSIS))
        parts[name] = _changed_arrays(draw, parts[name])
    elif kind == "bytes of a part":
        name = draw.choice(list(parts))
        parts[name] = _changed_bytes(draw, parts[name])
    if kind in ("arrays", "bytes of a part") and draw.random() < 0.9:
        manifest["parts"] = _sums(parts)
    text = json.dumps(manifest).encode()
    if kind == "bytes of the manifest":
        text = _changed_bytes(draw, text)
    left = {name: data for name, data in parts.items() if draw.random() > 0.01}
    for path in folder.iterdir():
        path.unlink()
    for name, data in {MANIFEST: text, **left}.items():
        (folder / name).write_bytes(data)
    digest = hashlib.sha256(b"".join(name.encode() + data for name, data in {MANIFEST: text, **left}.items())).digest()
    return kind, int.from_bytes(digest[:8], "little")


def _change_value(draw: random.Random, document: Any) -> None:
    """Change, remove or add one value anywhere in a document."""
    while True:
        keys = list(document) if isinstance(document, dict) else list(range(len(document)))
        if not keys:
            return
        key = draw.choice(keys)
        inner = document[key]
        if isinstance(inner, dict | list) and inner and draw.random() < 0.7:
            document = inner
            continue
        how = draw.randrange(5)
        if how == 0:
            del document[key]
        elif how == 1 and isinstance(document, dict):
            document[draw.choice(("x", "format", "parts", "\0"))] = deepcopy(draw.choice(_VALUES))
        elif how == 2 and isinstance(inner, int | float) and not isinstance(inner, bool):
            document[key] = draw.choice((-inner, inner * 1000, inner + 1, inner / 3, int(inner)))
        else:
            document[key] = deepcopy(draw.choice(_VALUES))
        return


def _changed_arrays(draw: random.Random, data: bytes) -> bytes:
    """Other numbers, types, shapes or names in a well-formed file."""
    # in order, since safetensors gives them in any
    arrays = {name: array.copy() for name, array in sorted(load(data).items())}
    for _ in range(draw.choice((1, 1, 3))):
        name = draw.choice(list(arrays))
        array = arrays[name]
        how = draw.randrange(7)
        if how <= 2 and array.size:
            flat = array.reshape(-1)
            where = [draw.randrange(flat.size) for _ in range(draw.choice((1, 4, flat.size)))]
            if array.dtype.kind in "iu":
                info = np.iinfo(array.dtype)
                flat[where] = draw.choice((0, 1, info.min, info.max, draw.randint(info.min, info.max)))
            else:
                flat[where] = draw.choice((0.0, -1.0, 65504.0, -65504.0, float("nan"), float("inf"), 1e-7))
            arrays[name] = flat.reshape(array.shape)
        elif how == 3:
            kinds = (np.int8, np.int16, np.int32, np.int64, np.uint8, np.float16, np.float32, np.float64)
            with np.errstate(all="ignore"):
                arrays[name] = np.nan_to_num(array).astype(draw.choice(kinds))
        elif how == 4:
            arrays[name] = draw.choice((array[:0], array.reshape(-1), array[None], array[:-1], array[..., :1]))
        elif how == 5:
            del arrays[name]
            if not arrays:
                break
        else:
            arrays[draw.choice(("x", f"{name}x", ""))] = array
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def _changed_bytes(draw: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 3))):
        # the front has what says where everything is
        at = draw.randrange(min(len(changed) or 1, draw.choice((8, 400, len(changed) or 1))))
        how = draw.randrange(4)
        if how == 0 and changed:
            changed[at] = draw.randrange(256)
        elif how == 1:
            del changed[at : at + draw.choice((1, 100, 100_000))]
        elif how == 2:
            changed[at:at] = draw.randbytes(draw.choice((1, 8, 100)))
        elif changed:
            changed[at : at + 8] = draw.choice((bytes(8), b"\xff" * 8, b"\xff\xff\xff\x7f\0\0\0\0"))
    return bytes(changed)

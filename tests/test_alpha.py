"""Alpha planes: exact whatever they hold, in the bytes that docs/format.md says, and refused when damaged."""

import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from robustcodec.alpha import decode_alpha, encode_alpha
from robustcodec.errors import CorruptFile

FORMAT_PAGE = (Path(__file__).parent.parent / "docs" / "format.md").read_text(encoding="utf-8")
Plane = NDArray[np.uint8]


def plainly(data: bytes, height: int, width: int) -> list[list[int]]:
    """Decode sample by sample, after docs/format.md."""
    kind, differences = data[0], zlib.decompress(data[1:])
    plane = [[0] * (width + 1) for _ in range(height + 1)]  # row and column 0 lie beyond the edge
    for i in range(height):
        for j in range(width):
            left, above, corner = plane[i + 1][j], plane[i][j + 1], plane[i][j]
            prediction = [0, left, above, left + above - corner][kind]
            plane[i + 1][j + 1] = (differences[i * width + j] + prediction) % 256
    return [row[1:] for row in plane[1:]]


def planes() -> dict[str, Plane]:
    y, x = np.mgrid[:24, :31]
    generator = np.random.default_rng(0)
    return {
        "sprite": np.where(np.hypot(y - 12, x - 15) < 9, 255, 0).astype(np.uint8),
        "columns": (5 * y + generator.integers(0, 256, (1, 31))).astype(np.uint8),
        "rows": (7 * x + generator.integers(0, 256, (24, 1))).astype(np.uint8),
        "both": ((x * 13 + y * 5) % 256).astype(np.uint8),
        "noise": generator.integers(0, 256, (24, 31)).astype(np.uint8),
        "pixel": np.array([[7]], np.uint8),
        "row": np.arange(200, dtype=np.uint8)[None],
        "column": np.arange(200, dtype=np.uint8)[::-1, None],
    }


@pytest.mark.parametrize("name", planes())
def test_planes_survive_exactly(name: str) -> None:
    plane = planes()[name]
    data = encode_alpha(plane)
    assert np.array_equal(decode_alpha(data, *plane.shape), plane)
    assert plainly(data, *plane.shape) == plane.tolist()


def test_each_prediction_is_used_where_it_is_best() -> None:
    made = planes()
    assert [encode_alpha(made[name])[0] for name in ("noise", "rows", "columns", "both")] == [0, 1, 2, 3]
    assert len(encode_alpha(made["sprite"])) < 60
    assert len(encode_alpha(np.zeros((1000, 1000), np.uint8))) < 1100


@given(st.integers(1, 9), st.integers(1, 9), st.data())
@settings(max_examples=50, deadline=None, derandomize=True)
def test_any_plane(height: int, width: int, draw: Any) -> None:
    raw = draw.draw(st.binary(min_size=height * width, max_size=height * width))
    plane = np.frombuffer(raw, np.uint8).reshape(height, width)
    kind = draw.draw(st.integers(0, 3))
    data = bytes([kind]) + zlib.compress(raw)  # what any encoder may send
    assert decode_alpha(data, height, width).tolist() == plainly(data, height, width)
    assert np.array_equal(decode_alpha(encode_alpha(plane), height, width), plane)


WHOLE = encode_alpha(planes()["sprite"])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x04" + WHOLE[1:],
        b"\xff",
        WHOLE[:1],
        WHOLE[:-1],
        WHOLE[:9],
        WHOLE + b"\0",
        WHOLE[:-1] + bytes([WHOLE[-1] ^ 1]),
        b"\0" + zlib.compress(bytes(24 * 31 - 1)),
        b"\0" + zlib.compress(bytes(24 * 31 + 1)),
        b"\0" + zlib.compress(bytes(1 << 26)),  # a bomb: no more than the plane is inflated
        b"\0" + zlib.compress(bytes(24 * 31))[2:-4],
    ],
)
def test_damage_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptFile, match="transparency cannot be read"):
        decode_alpha(data, 24, 31)


def test_the_example_of_the_format_page() -> None:
    block = re.search(r"```alpha\n(.*?)```", FORMAT_PAGE, re.DOTALL)
    assert block is not None
    encoded, *rows = block[1].strip().splitlines()
    plane = np.array([[int(value) for value in row.split()] for row in rows], np.uint8)
    assert np.array_equal(decode_alpha(bytes.fromhex(encoded), *plane.shape), plane)

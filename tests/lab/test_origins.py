"""What attacked pictures say of themselves, and files that say anything."""

import json
import math
import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from robustcodec.images import Picture, write_picture
from robustcodec.lab.evaluation.records import Assault
from robustcodec.lab.origins import Order, Origin, origin_of, with_origin
from robustcodec.lab.png_text import text_of, with_text
from robustcodec.measure import Figures

PNG = write_picture(Picture(pixels=np.zeros((4, 5, 3), np.uint8)), "PNG")
FIGURES = Figures(
    size=100,
    sha256="00",
    setting=1024.0,
    bpp=0.5,
    bpp_y=0.4,
    bpp_z=None,
    psnr=32.0,
    psnr_own=32.0,
    psnr_input=math.inf,
    ms_ssim=0.97,
    worst_block=28.0,
    score=1.0,
    gain=None,
    score_change=None,
)
ATTACK = Assault(method="pgd", target="psnr", bounded=True, epsilon=5e-4, steps=4, seed=0, restarts=1)
ORDER = Order(model="m\u00fc", fingerprint="0123", quality=4.0, attack=ATTACK)
ORIGIN = Origin(order=ORDER, clean="sha", holds=True, shrunk=1.0, before=FIGURES, after=FIGURES)
MARKED = with_origin(PNG, ORIGIN)


def test_an_origin_comes_back_and_the_picture_is_as_it_was() -> None:
    assert origin_of(MARKED) == ORIGIN
    assert with_origin(PNG, ORIGIN) == MARKED
    assert origin_of(PNG) is None
    with Image.open(BytesIO(MARKED)) as image, Image.open(BytesIO(PNG)) as plain:
        assert np.array_equal(np.asarray(image), np.asarray(plain))
        assert json.loads(image.info["robustcodec attack"])["order"]["attack"]["method"] == "pgd"  # type: ignore[index]


def test_one_text_is_not_taken_for_another() -> None:
    png = with_text(with_text(PNG, "longer", "1"), "long", "2")
    assert (text_of(png, "longer"), text_of(png, "long"), text_of(png, "lon")) == ("1", "2", None)


@given(st.binary(max_size=200), st.integers(0, len(MARKED)))
def test_any_bytes_may_be_asked(data: bytes, cut: int) -> None:
    assert origin_of(data) is None
    assert origin_of(MARKED[:cut]) in (None, ORIGIN)
    origin_of(MARKED[:cut] + data)
    origin_of(MARKED[:cut] + data + MARKED[cut:])


@given(st.integers(0, len(MARKED) - 1), st.integers(1, 255))
def test_a_damaged_byte_makes_no_other_origin(place: int, change: int) -> None:
    damaged = bytearray(MARKED)
    damaged[place] ^= change
    assert origin_of(bytes(damaged)) in (None, ORIGIN)


def said(document: Any) -> bytes:
    return with_text(PNG, "robustcodec attack", document if isinstance(document, str) else json.dumps(document))


@pytest.mark.parametrize("name", ["order", "clean", "holds", "shrunk", "before", "after"])
@pytest.mark.parametrize("value", [None, [], {}, "text", -1, 10**400, [[]]])
def test_what_is_no_origin_is_none(name: str, value: Any) -> None:
    document = json.loads(text_of(MARKED, "robustcodec attack") or "")
    assert origin_of(said(document)) == ORIGIN
    found = origin_of(said(document | {name: value}))
    assert found is None or (name, value) in (("clean", "text"), ("shrunk", -1), ("shrunk", None))
    figures = document["after"] | {"psnr": value, "gain": value}
    if found := origin_of(said(document | {"after": figures})):
        assert math.isfinite(found.after.gain or 0.0)
    assert origin_of(said({key: item for key, item in document.items() if key != name})) is None


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "1", "no json", "[" * 100_000, '"' + "9" * 5000, "9" * 5000])
def test_what_is_no_document_is_none(text: str) -> None:
    assert origin_of(said(text)) is None


def test_lengths_that_lie_end_the_search() -> None:
    body = b"tEXtrobustcodec attack\0{}"
    for length in (0, 3, 0x7FFFFFFF, 0xFFFFFFFF):
        chunk = struct.pack(">I", length) + body + struct.pack(">I", zlib.crc32(body))
        assert origin_of(PNG[:-12] + chunk) is None


def test_differences_are_shown_shortened() -> None:
    other = Order(model="x" * 1000, fingerprint="4567", quality=2.0, attack=ATTACK)
    model, quality = other.differences(ORDER)
    assert len(model) < 120
    assert quality == "quality 2.0, not quality 4.0"
    assert ORDER.differences(ORDER) == []

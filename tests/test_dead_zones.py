"""Dead zones: an encoder's choice of zeros, which decoders know nothing of."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from regenerate import TINY, sample
from safetensors.numpy import load

from robustcodec.architectures import Group
from robustcodec.bundle import ANALYSIS, PARTS, open_bundle, write_bundle
from robustcodec.codec import Codec
from robustcodec.images import Picture
from robustcodec.rate import Quality
from robustcodec.refine import Steps, refine
from robustcodec.strips import prepare_strip, quantised, walk
from robustcodec.transforms import analyse

WIDTHS = np.r_[np.full(20, 1.75), np.full(44, 0.5)].astype(np.float32)
"""Half widths for the 64 tables, the first ones wide."""


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    """The tiny model with dead zones."""
    source = open_bundle(TINY)
    parts = {name: load((TINY / name).read_bytes()) for name in PARTS}
    parts[ANALYSIS]["dead_zones"] = (WIDTHS * 1024).astype(np.uint16)
    fields = ("id", "architecture", "sizes", "variant", "provenance")
    document = {name: getattr(source.manifest, name) for name in fields}
    rates = [{"quality": q.quality, "lagrangian": q.lagrangian, "step": q.step} for q in source.manifest.rates]
    folder: Path = tmp_path_factory.mktemp("models") / "held"
    return Codec(
        write_bundle(folder, {**document, "rates": rates, "points": [], "contract": None, "attacks": []}, parts)
    )


def symbols_of(codec: Codec, pixels: NDArray[np.uint8], step: int) -> list[tuple[NDArray[np.int32], Group]]:
    architecture = codec._architecture
    strip = prepare_strip(architecture, analyse(architecture, pixels, 0, pixels.shape[0]))
    found = []

    def code(group: Group) -> NDArray[np.int32]:
        found.append((quantised(strip.y, group, step, strip.dead_zones), group))
        return found[-1][0]

    walk(strip.conditions.schedule(step), code)
    return found


def test_without_zones_all_is_rounded(codec: Codec) -> None:
    assert (codec._architecture.dead_zones == np.full(64, 0.5, np.float32)).all()
    y = np.array([[[-1.5, -0.5, 0.0, 0.49, 0.51, 2.5]]], np.float32)
    group = Group(..., np.zeros(y.shape, np.uint8), np.zeros((), np.int32))
    assert quantised(y, group, 1024, codec._architecture.dead_zones).tolist() == np.rint(y).tolist()


def test_what_lies_within_a_zone_is_zero_and_the_rest_rounds() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(0, 2, (3, 4, 5)).astype(np.float32)
    table = rng.integers(0, 64, y.shape).astype(np.uint8)
    mean = rng.integers(-2000, 2000, y.shape).astype(np.int32)
    found = quantised(y, Group(..., table, mean), 700, WIDTHS)
    for place in np.ndindex(y.shape):
        u = (float(y[place]) - mean[place] / 1024) * 1024 / 700
        assert found[place] == (0 if abs(u) < WIDTHS[table[place]] else round(u))
    assert (np.abs(found) > 0).any() and (np.rint((y - mean / 1024) * 1024 / 700) != found).any()


def test_files_with_fewer_symbols_decode_like_any_other(held: Codec, codec: Codec) -> None:
    picture = Picture(pixels=sample(96, 160, 7))
    plain, fewer = (each.encode(picture, Quality(4), measure=True) for each in (codec, held))
    assert len(fewer.data) < len(plain.data)
    assert fewer.reconstruction is not None
    assert np.array_equal(held.decode(fewer.data).pixels, fewer.reconstruction)
    ones = 0
    for symbols, group in symbols_of(held, picture.pixels, held.bundle.manifest.step(4)):
        wide = WIDTHS[group.table] > 1
        assert not (np.abs(symbols[wide]) == 1).any()
        ones += int((np.abs(symbols[~wide]) == 1).sum())
    assert ones > 0


def test_refinement_has_the_last_word(held: Codec) -> None:
    """What gradient steps find worth a symbol stays one, whatever the zone."""
    pixels = sample(64, 96, 3)
    architecture = held._architecture
    strip = prepare_strip(architecture, analyse(architecture, pixels, 0, pixels.shape[0]))
    better = refine(architecture, strip, pixels, 1024, 1.0, Steps(3))
    assert (better.dead_zones == 0.5).all() and (strip.dead_zones == WIDTHS).all()
    assert refine(architecture, strip, pixels, 1024, 1.0, Steps(0)) is strip

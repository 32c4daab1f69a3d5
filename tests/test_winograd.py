"""Convolutions with fewer multiplications against plain ones, and the synthesis made of them against its graph."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regenerate import CHENG

from robustcodec.architectures.residual import Synthesis
from robustcodec.bundle import open_bundle
from robustcodec.networks import Float32, checked, load
from robustcodec.winograd import Convolution, Memory, Plane

SIZES = (8, 8)


def plain(values: Float32, weight: Float32, bias: Float32) -> np.ndarray:  # type: ignore[type-arg]
    """Convolve (C, h, w) tap by tap, in float64."""
    _, height, width = values.shape
    padded = np.pad(values.astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    taps = [
        np.einsum("kc,chw->khw", weight[:, :, y, x], padded[:, y : y + height, x : x + width])
        for y in range(3)
        for x in range(3)
    ]
    result: np.ndarray = np.sum(taps, axis=0) + bias[:, None, None]  # type: ignore[type-arg]
    return result


def shuffled(values: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Put four channels each into the squares of one of twice the size."""
    channels, height, width = values.shape
    squares = values.reshape(channels // 4, 2, 2, height, width).transpose(0, 3, 1, 4, 2)
    return squares.reshape(channels // 4, 2 * height, 2 * width)


def numbers(generator: np.random.Generator, *shape: int) -> Float32:
    return generator.standard_normal(shape).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 11), st.integers(1, 140), st.integers(1, 5), st.integers(1, 3), st.booleans())
def test_results_are_those_of_a_plain_convolution(height: int, width: int, inputs: int, outputs: int, up: bool) -> None:
    generator = np.random.default_rng(height * width)
    outputs *= 4 if up else 1
    values, bias = numbers(generator, inputs, height, width), numbers(generator, outputs)
    weight = numbers(generator, outputs, inputs, 3, 3)
    expected = plain(values, weight, bias)
    convolution = Convolution(weight, bias, doubles=up)
    plane = Plane.of(Memory(), values)
    one, two = (convolution(plane, Memory(), threads) for threads in (1, 2))
    found = one.values.transpose(2, 0, 1)
    assert np.abs(found - (shuffled(expected) if up else expected)).max() < 2e-5 * (1 + np.abs(expected).max())
    assert np.array_equal(one.values, two.values)
    rest = one.padded.copy()
    rest[1 : one.height + 1, 1 : one.width + 1] = 0
    assert not rest.any()


def test_results_are_finished_and_added() -> None:
    generator = np.random.default_rng(1)
    values, weight, bias = numbers(generator, 4, 9, 6), numbers(generator, 4, 4, 3, 3), numbers(generator, 4)

    def halve(found: Float32) -> None:
        found /= 2

    plane, onto = Plane.of(Memory(), values), Plane.of(Memory(), values)
    assert Convolution(weight, bias)(plane, onto, 1, halve) is onto
    expected = values + plain(values, weight, bias) / 2
    assert np.abs(onto.values.transpose(2, 0, 1) - expected).max() < 1e-4


@pytest.mark.parametrize("limit", [None, 1.5])
@pytest.mark.parametrize("size", [(1, 1), (3, 10), (9, 5)])
def test_the_synthesis_is_that_of_the_graph(size: tuple[int, int], limit: float | None) -> None:
    tensors = dict(open_bundle(CHENG).synthesis)
    if limit is not None:
        tensors["g_s.3.igdn.limit"] = np.full((8, 1, 1), limit, np.float16)
    y_hat = 20 * numbers(np.random.default_rng(2), 8, *size)
    expected = load("cheng", SIZES, tensors, 1, ["synthesis"]).synthesise(y_hat)
    synthesis = checked("cheng", SIZES, tensors, ["synthesis"])
    one = Synthesis(synthesis, threads=1)
    one.synthesise(-numbers(np.random.default_rng(3), 8, 11, 12))  # which leaves its values in memory
    found = one.synthesise(y_hat)
    assert found.shape == expected.shape and found.dtype == np.float32
    assert np.ptp(expected) > 0.5
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert np.array_equal(found, Synthesis(synthesis, threads=2).synthesise(y_hat))


def test_what_is_too_large_gives_no_number_and_no_warning() -> None:
    synthesis = Synthesis(checked("cheng", SIZES, open_bundle(CHENG).synthesis, ["synthesis"]), threads=2)
    assert not np.isfinite(synthesis.synthesise(np.full((8, 4, 4), 3e38, np.float32))).any()

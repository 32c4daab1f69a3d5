"""Fronts against a naive raster walk: the same order of dependence, the same context."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from robustcodec.architectures.wavefront import TAPS, Context, fronts

sides = st.integers(1, 13)


@given(sides, sides)
@settings(max_examples=60, deadline=None)
def test_every_latent_once_and_after_its_context(height: int, width: int) -> None:
    order = np.full((height, width), -1)
    numbers = []
    for position, front in enumerate(fronts(height, width)):
        numbers.append(front.number)
        assert (order[front.rows, front.columns] == -1).all()
        order[front.rows, front.columns] = position
    assert order.min() == 0
    assert numbers == sorted(set(numbers))
    for row, column in np.ndindex(height, width):
        for down, right in TAPS:
            if row + down >= 0 and 0 <= column + right < width:
                assert order[row + down, column + right] < order[row, column]


@pytest.mark.parametrize(("height", "width", "count"), [(32, 48, 141), (1, 7, 7), (7, 3, 21), (7, 1, 7), (5, 2, 10)])
def test_there_are_as_few_fronts_as_the_slant_allows(height: int, width: int, count: int) -> None:
    assert len(list(fronts(height, width))) == count
    assert count == min(width + 3 * (height - 1), width * height)


@given(st.integers(1, 3), sides, sides, st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_the_context_is_that_of_a_raster_walk(channels: int, height: int, width: int, seed: int) -> None:
    """Of latents that each depend on their context, so that one wrong tap shows in all that follow."""
    generator = np.random.default_rng(seed)
    weights = generator.integers(-9, 10, (channels, len(TAPS) * channels)).astype(np.float64)
    start = generator.integers(-99, 100, (channels, height, width)).astype(np.float64)

    def follow(window: NDArray[np.float64], own: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((window @ weights.T + own) % 101 - 50)

    raster = np.zeros((channels, height + 2, width + 4))
    for row, column in np.ndindex(height, width):
        window = np.concatenate([raster[:, row + 2 + down, column + 2 + right] for down, right in TAPS])
        raster[:, row + 2, column + 2] = follow(window, start[:, row, column])
    slanted = np.full((channels, height, width), np.nan)
    context = Context(channels)
    for front in fronts(height, width):
        values = follow(context.around(front), start[:, front.rows, front.columns].T)
        context.add(front, values)
        slanted[:, front.rows, front.columns] = values.T
    assert np.array_equal(slanted, raster[:, 2:, 2:-2])


def test_taps_are_those_of_a_masked_convolution() -> None:
    mask = np.zeros((5, 5), int)
    for row, column in TAPS:
        mask[row + 2, column + 2] += 1
    assert mask.ravel().tolist() == [1] * 12 + [0] * 13
    assert list(TAPS) == sorted(TAPS)

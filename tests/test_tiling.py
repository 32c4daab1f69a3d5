"""Tiles cover a plane once, see their halo wherever the plane goes on, and no more."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from robustcodec.tiling import scaled, shifted, tiles


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    size=st.integers(1, 16),
    halo=st.integers(0, 8),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_tiles_cover_a_plane_once_with_their_halo(height: int, width: int, size: int, halo: int) -> None:
    plane = np.arange(height * width).reshape(height, width)
    times = np.zeros((height, width), int)
    for tile in tiles(height, width, size, halo):
        rows, columns = shifted(tile.rows, tile.inner_rows), shifted(tile.columns, tile.inner_columns)
        inner = plane[tile.rows, tile.columns][tile.inner_rows, tile.inner_columns]
        assert np.array_equal(inner, plane[rows, columns])
        assert 1 <= inner.shape[0] <= size and 1 <= inner.shape[1] <= size
        times[rows, columns] += 1
        for outer, core, length in ((tile.rows, rows, height), (tile.columns, columns, width)):
            assert outer.start == max(0, core.start - halo)
            assert outer.stop == min(length, core.stop + halo)
    assert (times == 1).all()


def test_spans_in_planes_of_other_resolution() -> None:
    assert scaled(slice(3, 5), 16) == slice(48, 80)
    assert scaled(slice(48, 80), divide=16) == slice(3, 5)

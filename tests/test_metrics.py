import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustcodec.metrics import bits_per_pixel, ms_ssim, mse, psnr, worst_block

RNG = np.random.default_rng(7)


def noise(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_psnr_of_known_differences() -> None:
    a = np.full((4, 5, 3), 10, np.uint8)
    assert psnr(a, a) == math.inf
    assert psnr(a, a + 1) == pytest.approx(48.130803608679)
    assert mse(np.zeros((3, 3, 3), np.uint8), np.full((3, 3, 3), 255, np.uint8)) == 255**2
    assert psnr(np.zeros((3, 3, 3), np.uint8), np.full((3, 3, 3), 255, np.uint8)) == 0


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 600), st.integers(1, 900), st.integers(0, 99))
def test_mse_equals_float64(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in "ab")
    assert mse(a, b) == pytest.approx(((a.astype(float) - b) ** 2).mean(), rel=1e-12)
    assert mse(a, b) == mse(b, a)


def test_worst_block_finds_the_one_bad_block() -> None:
    a = np.zeros((200, 300, 3), np.uint8)
    b = a.copy()
    b[150:170, 250:260] = 40
    damage = 40**2 * 200 / 64**2  # the block at the right and lower edge holds all of it
    assert worst_block(a, b) == pytest.approx(10 * math.log10(255**2 / damage))
    assert worst_block(a, a) == math.inf


@pytest.mark.parametrize(("height", "width"), [(64, 64), (1, 1), (10, 200), (64, 65), (128, 127), (129, 1)])
def test_worst_block_equals_a_loop(height: int, width: int) -> None:
    a, b = noise(height, width), noise(height, width)
    h, w = min(64, height), min(64, width)
    tops = sorted({*range(0, height - h + 1, 64), height - h})
    lefts = sorted({*range(0, width - w + 1, 64), width - w})
    blocks = [psnr(a[t : t + h, s : s + w], b[t : t + h, s : s + w]) for t in tops for s in lefts]
    assert worst_block(a, b) == pytest.approx(min(blocks), abs=1e-9)


@pytest.mark.parametrize("side", [1, 5, 11, 20, 21, 40, 41, 160, 161])
def test_ms_ssim_of_any_size(side: int) -> None:
    a = noise(side, side + 3)
    assert ms_ssim(a, a) == pytest.approx(1, abs=1e-5)
    assert 0 <= ms_ssim(a, 255 - a) < 0.2


def test_ms_ssim_falls_with_noise() -> None:
    ramp = np.linspace(0, 255, 200).astype(np.uint8)
    a = np.broadcast_to(ramp[:, None, None], (200, 180, 3))
    values = [ms_ssim(a, np.clip(a + RNG.normal(0, sigma, a.shape), 0, 255).astype(np.uint8)) for sigma in (2, 8, 32)]
    assert 1 > values[0] > values[1] > values[2] > 0


def test_bits_per_pixel() -> None:
    assert bits_per_pixel(23552, 768, 512) == pytest.approx(0.4791667)


@pytest.mark.parametrize("measure", [mse, psnr, worst_block, ms_ssim])
def test_refuses_what_cannot_be_compared(measure) -> None:
    a = noise(20, 20)
    for b in (noise(20, 21), a.astype(np.float32), a[..., 0], a[:0]):
        with pytest.raises(ValueError, match="pictures"):
            measure(a, b)

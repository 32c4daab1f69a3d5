"""Figures of an evaluation: each against its definition, from the file's own bytes."""

import hashlib
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from robustcodec.architectures import open_architecture
from robustcodec.codec import Codec
from robustcodec.container import unpack
from robustcodec.images import Picture
from robustcodec.measure import Coded, coder, ideal_length, measure
from robustcodec.rate import LAMBDAS, Quality

Pixels = NDArray[np.uint8]


def error(a: Pixels, b: Pixels) -> float:
    """Mean squared difference on [0, 1]."""
    return float(np.mean((a / 255.0 - b / 255.0) ** 2))


@pytest.fixture(scope="module")
def clean(make_sample: Callable[..., Pixels]) -> Pixels:
    return make_sample(80, 72, 3)


@pytest.fixture(scope="module")
def attacked(clean: Pixels) -> Pixels:
    noise = np.random.default_rng(0).normal(0, 5.7, clean.shape)
    return np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)


def test_figures_follow_their_definitions(codec: Codec, clean: Pixels, attacked: Pixels) -> None:
    epsilon, quality = 5e-4, 3.0
    figures = measure(coder(codec, Quality(quality)), clean, attacked, quality=quality, epsilon=epsilon)

    data = codec.encode(Picture(pixels=attacked), Quality(quality)).data
    shown = codec.decode(data).pixels
    before = codec.encode(Picture(pixels=clean), Quality(quality)).data
    shown_before = codec.decode(before).pixels
    assert (figures.size, figures.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert figures.setting == codec.bundle.manifest.step(quality)
    assert figures.bpp == pytest.approx(len(data) * 8 / (80 * 72))
    assert figures.psnr == pytest.approx(-10 * math.log10(error(clean, shown)))
    assert figures.psnr_own == pytest.approx(-10 * math.log10(error(attacked, shown)))
    assert figures.psnr_input == pytest.approx(-10 * math.log10(error(clean, attacked)))
    assert figures.gain == pytest.approx((error(clean, shown) - error(clean, shown_before)) / epsilon)
    weight = LAMBDAS[2] * 255**2
    j = figures.bpp + weight * error(attacked, shown)
    assert figures.score == pytest.approx(j)
    assert figures.score_change == pytest.approx(j - 8 * len(before) / (80 * 72) - weight * error(clean, shown_before))
    block = min(
        -10 * math.log10(error(clean[t:, s:][:64, :64], shown[t:, s:][:64, :64])) for t in (0, 16) for s in (0, 8)
    )
    assert figures.worst_block == pytest.approx(block)


def test_a_clean_picture_has_no_gain(codec: Codec, clean: Pixels) -> None:
    figures = measure(coder(codec, Quality(4)), clean, clean)
    assert figures.gain is None
    assert figures.score_change is None
    assert figures.psnr_input == math.inf
    assert figures.psnr == figures.psnr_own


def test_y_and_z_share_the_message(codec: Codec, clean: Pixels) -> None:
    coded = coder(codec, Quality(4))(clean)
    (strip,) = unpack(coded.data).payload
    assert coded.bytes_y is not None
    assert coded.bytes_z is not None
    assert coded.bytes_y + coded.bytes_z == pytest.approx(len(strip) - 4)  # but for the checksum of the latents
    ideal = ideal_length(open_architecture(codec.bundle, 1), coded.data)
    assert ideal / 8 == pytest.approx(len(strip) - 4, abs=8)  # the coder ends on a whole word of 4 bytes
    finer = coder(codec, Quality(6))(clean)
    assert finer.bytes_y is not None
    assert finer.bytes_z is not None
    # z does not depend on the step: only y grows
    assert finer.bytes_z == pytest.approx(coded.bytes_z, rel=0.02)
    assert finer.bytes_y > 1.2 * coded.bytes_y


def test_a_reference_is_used_instead_of_coding_the_clean_picture(clean: Pixels, attacked: Pixels) -> None:
    seen: list[Pixels] = []

    def identity(pixels: Pixels) -> Coded:
        seen.append(pixels)
        return Coded(b"12345", pixels, 1.0)

    figures = measure(identity, clean, attacked, epsilon=1e-3, reference=Coded(b"12", clean, 1.0))
    assert [pixels is attacked for pixels in seen] == [True]
    assert figures.gain == pytest.approx(error(clean, attacked) / 1e-3)
    assert figures.score_change == pytest.approx(8 * 3 / (80 * 72))
    assert figures.bpp_y is figures.bpp_z is None
    assert figures.psnr_own == math.inf

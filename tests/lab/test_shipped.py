"""What an attacker believes symbols to cost, against the tables, and against real files."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from robustcodec.architectures import open_architecture
from robustcodec.bundle import Bundle
from robustcodec.codec import Codec
from robustcodec.entropy import ideal_bits
from robustcodec.images import Picture
from robustcodec.lab.attacks.shipped import TablePrice, victim_of
from robustcodec.lab.attacks.victim import code
from robustcodec.lab.entropy_models import SCALES
from robustcodec.lab.networks import soft_rounding

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def price(tiny: Bundle) -> TablePrice:
    return TablePrice(open_architecture(tiny, threads=1).y_tables, CPU)


def test_whole_symbols_cost_what_the_tables_say(price: TablePrice, tiny: Bundle) -> None:
    tables = open_architecture(tiny, threads=1).y_tables
    rng = np.random.default_rng(0)
    index = rng.integers(0, len(tables), 500)
    symbols = np.rint(rng.standard_t(1, 500) * 3).clip(-1000, 1000).astype(np.int32)
    symbols[:3] = -1000, 0, 1000
    bits = price(torch.tensor(symbols).float(), torch.tensor(np.array(SCALES)[index]).float())
    assert bits.numpy() == pytest.approx(ideal_bits(symbols, index, tables), rel=1e-3, abs=1e-3)


def test_between_them_it_is_a_straight_line(price: TablePrice) -> None:
    scale = torch.tensor(SCALES[7])
    ends = price(torch.tensor([2.0, 3.0]), scale.expand(2))
    assert price(torch.tensor(2.25), scale) == pytest.approx(float(0.75 * ends[0] + 0.25 * ends[1]), rel=1e-4)
    scales = torch.tensor([SCALES[7], SCALES[8]])
    ends = price(torch.tensor([2.0, 2.0]), scales)
    assert price(torch.tensor(2.0), scales.prod().sqrt()) == pytest.approx(float(ends.mean()), rel=1e-4)


def test_its_gradient_is_that_of_differences(price: TablePrice) -> None:
    symbols = torch.tensor([0.3, -1.6, 12.2, 700.4], requires_grad=True)
    scales = torch.tensor([0.5, 1.3, 4.1, 90.0], requires_grad=True)
    grads = torch.autograd.grad(price(symbols, scales).sum(), (symbols, scales))
    for index, (given, small) in enumerate(((symbols, 1e-2), (scales, 1e-2))):
        ahead, behind = (
            price(*(value + side * small * (value is given) for value in (symbols, scales))) for side in (1, -1)
        )
        assert grads[index].numpy() == pytest.approx(
            ((ahead - behind) / (2 * small)).detach().numpy(), rel=0.05, abs=2e-2
        )


def test_the_rounded_victim_expects_the_real_file(tiny: Bundle, make_sample: Callable[..., NDArray[np.uint8]]) -> None:
    codec = Codec(tiny)
    victim = victim_of(tiny, 4.0, CPU)
    for seed in (1, 2):
        pixels = make_sample(64, 128, seed)
        x = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            expected = float(code(victim, x, x).bpp) * 64 * 128 / 8
        real = len(codec.encode(Picture(pixels=pixels)).data) - 38  # the container
        assert expected == pytest.approx(real, rel=0.01, abs=4)


def test_soft_rounding_keeps_what_is_whole_or_half() -> None:
    curve = soft_rounding(4.0)
    kept = torch.tensor([-2.0, -1.5, 0.0, 0.5, 3.0])
    assert torch.allclose(curve(kept), kept, atol=1e-6)
    near = torch.tensor([0.2, -0.8, 0.8], requires_grad=True)
    softened = curve(near)
    assert ((softened - softened.detach().round()).abs() < (near - near.detach().round()).abs()).all()
    (gradient,) = torch.autograd.grad(softened.sum(), near)
    difference = (curve(near + 1e-3) - curve(near - 1e-3)) / 2e-3
    assert torch.allclose(gradient, difference.detach(), rtol=1e-2)

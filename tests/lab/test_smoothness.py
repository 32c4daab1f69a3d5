"""smooth_loss: each term against finite differences, its own gradient likewise, and no infinities on the way."""

import math

import pytest
import torch
from torch import Tensor

from robustcodec.lab.entropy_models import gaussian_bits, lower_bound
from robustcodec.lab.hyper import Hyper
from robustcodec.lab.losses import Batch
from robustcodec.lab.networks import Quantiser
from robustcodec.lab.recipe import Rounding
from robustcodec.lab.smoothness import smoothness

SIDE = 16
SEED = 5


@pytest.fixture
def network() -> Hyper:
    """A tiny network in float64 whose scales lie above their bound, below which gradients are bent on purpose."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Hyper(4, 3).double()
    with torch.no_grad():
        for name in ("g_a.0", "g_a.2", "g_a.4", "g_a.6"):
            network.get_parameter(f"{name}.weight").mul_(4)
        network.get_parameter("h_s.4.bias").add_(0.5)
    return network


def batch(count: int = 1, step: float = 1.0, x: Tensor | None = None) -> Batch:
    if x is None:
        x = torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ones = torch.ones(x.shape[0], dtype=torch.float64)
    return Batch(x, step * ones, 0.013 * ones, torch.Generator().manual_seed(SEED), Rounding.NOISE)


def numerical_gradient(function: object, x: Tensor, width: float = 1e-5) -> Tensor:
    """Central differences of a function of many crops (K, 3, H, W) -> (K,), at one crop x (1, 3, H, W)."""
    moves = width * torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape[1:])
    with torch.no_grad():
        return (function(x + moves) - function(x - moves)) / (2 * width)  # type: ignore[operator]


def stored_noise(generator: torch.Generator) -> Quantiser:
    """Noise for one crop, used for all of a batch."""

    def add(values: Tensor) -> Tensor:
        return values + torch.rand((1, *values.shape[1:]), generator=generator) - 0.5

    return add


def test_the_gradient_of_the_rate_is_that_of_finite_differences(network: Hyper) -> None:
    step = 0.7

    def bits_per_pixel(crops: Tensor) -> Tensor:
        steps = torch.full((crops.shape[0],), step, dtype=crops.dtype)
        noise = stored_noise(torch.Generator().manual_seed(SEED))
        y_bits, _ = network.code_length(network.analyse(crops), steps, noise)
        return y_bits / SIDE**2

    one = batch(step=step)
    gradient = numerical_gradient(bits_per_pixel, one.x)
    expected = gradient.square().sum().sqrt() * math.sqrt(3 * SIDE**2)
    found = smoothness(network, one)
    assert expected > 1e-3
    assert torch.allclose(found.bpp, expected, rtol=1e-5)


def test_the_projection_of_the_jacobian_is_that_of_finite_differences(network: Hyper) -> None:
    one = batch()
    v = torch.randn(1, 3, 1, 1, generator=torch.Generator().manual_seed(SEED)).double()
    gradient = numerical_gradient(lambda crops: (v * network.analyse(crops)).sum((1, 2, 3)), one.x)
    found = smoothness(network, one, bpp=False)
    assert torch.allclose(found.latents, (gradient.square().sum() / (3 * SIDE**2)).sqrt(), rtol=1e-6)
    assert found.bpp.eq(0).all()


def test_projections_average_to_the_frobenius_norm(network: Hyper) -> None:
    one = batch()
    rows = [numerical_gradient(lambda crops, i=i: network.analyse(crops)[:, i, 0, 0], one.x) for i in range(3)]
    exact = torch.stack(rows).square().sum() / (3 * SIDE**2)
    many = smoothness(network, batch(x=one.x.expand(3000, -1, -1, -1)), bpp=False)
    assert float(many.latents.detach().square().mean()) == pytest.approx(float(exact), rel=0.08)


@pytest.mark.parametrize(("bpp", "latents"), [(True, False), (False, True), (True, True)])
def test_its_gradient_reaches_the_first_layer(network: Hyper, bpp: bool, latents: bool) -> None:
    def total() -> Tensor:
        found = smoothness(network, batch(2), bpp=bpp, latents=latents)
        return (found.bpp + found.latents).sum()

    weight = network.get_parameter("g_a.0.weight")
    total().backward()
    assert weight.grad is not None
    width = 1e-6
    for index in ((0, 0, 2, 2), (3, 2, 1, 4), (1, 1, 3, 0)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[index] += sign * width
            values.append(float(total().detach()))
            with torch.no_grad():
                weight[index] -= sign * width
        slope = (values[0] - values[1]) / (2 * width)
        assert abs(slope) > 1e-4
        assert float(weight.grad[index]) == pytest.approx(slope, rel=1e-4)


def test_an_orthonormal_transform_that_keeps_all_counts_as_one() -> None:
    """Blocks of 16x16 of three colours are 768 numbers; a network whose latents are those has energy gain 1."""

    class Identity(Hyper):
        def analyse(self, x: Tensor) -> Tensor:
            return torch.nn.functional.pixel_unshuffle(x, 16)

    crops = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    found = smoothness(Identity(4, 768), batch(x=crops), bpp=False)
    assert torch.allclose(found.latents, torch.ones(2), rtol=0.05)


def test_second_derivatives_of_code_lengths_are_finite() -> None:
    """Where latents are saturated and scales below their bound, too."""
    values = torch.tensor([0.0, 0.4, -3.0, 40.0, -900.0]).repeat(3).requires_grad_()
    scales = torch.tensor([0.01, 0.5, 30.0]).repeat_interleave(5).requires_grad_()
    first = torch.autograd.grad(gaussian_bits(values, scales).sum(), (values, scales), create_graph=True)
    second = torch.autograd.grad(sum(part.square().sum() for part in first), (values, scales))  # type: ignore[arg-type]
    assert all(torch.isfinite(part).all() for part in (*first, *second))
    assert all(part.ne(0).any() for part in second)


def test_the_lower_bound_can_be_differentiated_twice() -> None:
    x = torch.tensor([0.3, 0.9, 2.0], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([-2.0, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad((weight.square() * -1 * lower_bound(x, 1.0)).sum(), x, create_graph=True)
    # both values below the bound have a gradient that would raise them, so all gradients pass
    assert first.tolist() == [-4.0, -1.0, -9.0]
    (second,) = torch.autograd.grad(first.sum(), weight)
    assert second.tolist() == [4.0, -2.0, -6.0]

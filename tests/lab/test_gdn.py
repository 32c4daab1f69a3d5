"""Divisive normalisation: its own backward pass against autograd's, once and twice."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustcodec.lab import gdn
from robustcodec.lab.networks import Gdn

pytestmark = pytest.mark.parametrize("exponent", [0.5, -0.5])


def parts(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Make x (2, 6, 5, 4), beta and gamma."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 6, 5, 4, generator=generator, dtype=torch.float64)
    beta = 0.5 + torch.rand(6, generator=generator, dtype=torch.float64)
    gamma = 0.2 * torch.rand(6, 6, generator=generator, dtype=torch.float64)
    x, beta, gamma = (tensor.to(dtype).requires_grad_() for tensor in (x, beta, gamma))
    return x, beta, gamma


def test_first_and_second_derivatives(exponent: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gdn, "_BLOCK_BYTES", 7 * 6 * 8)  # 40 rows in blocks of 7, the last of 5

    def normalise(x: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
        return gdn.normalise(x, beta, gamma, exponent)

    assert torch.autograd.gradcheck(normalise, parts(torch.float64))
    assert torch.autograd.gradgradcheck(normalise, parts(torch.float64))


def test_derivatives_at_a_ceiling(exponent: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gdn, "_BLOCK_BYTES", 7 * 6 * 8)
    x, beta, gamma = parts(torch.float64)
    ceiling = torch.linspace(0.8, 3.0, 6, dtype=torch.float64)
    norm = F.conv2d(x**2, gamma[:, :, None, None], beta)
    above = (norm > ceiling[:, None, None]).double().mean()
    assert 0.1 < above < 0.9

    def normalise(x: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
        return gdn.normalise(x, beta, gamma, exponent, ceiling)

    expected = x * norm.minimum(ceiling[:, None, None]) ** exponent
    assert torch.allclose(normalise(x, beta, gamma), expected, rtol=1e-12)
    assert torch.autograd.gradcheck(normalise, (x, beta, gamma))
    assert torch.autograd.gradgradcheck(normalise, (x, beta, gamma))


def test_in_bfloat16_it_follows_the_formula(exponent: float) -> None:
    x, beta, gamma = parts(torch.bfloat16)
    found = gdn.normalise(x, beta, gamma, exponent)
    gradients = torch.autograd.grad(found.float().square().sum(), (x, beta, gamma))
    wide = [tensor.detach().double().requires_grad_() for tensor in (x, beta, gamma)]
    norm = F.conv2d(wide[0] ** 2, wide[2][:, :, None, None], wide[1])
    expected = wide[0] * norm**exponent
    for one, other in zip(
        (found, *gradients), (expected, *torch.autograd.grad(expected.square().sum(), wide)), strict=True
    ):
        assert one.dtype is torch.bfloat16
        error = (one.double() - other).detach().norm() / other.detach().norm()
        assert error < 0.02  # 8 significant bits


def test_frozen_parameters_get_no_gradient(exponent: float) -> None:
    layer = Gdn(6, inverse=exponent > 0).requires_grad_(False)
    x = parts(torch.float32)[0]
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).float().sum().backward()
    assert x.grad is not None and x.grad.dtype is torch.float32
    assert layer.gamma.grad is None and layer.beta.grad is None

"""The differentiable network, its code lengths and its start, against independent references."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
mpmath = pytest.importorskip("mpmath")  # comes with torch

from robustcodec.lab.entropy_models import SCALE_MIN, FactorizedPrior, gaussian_bits, lower_bound  # noqa: E402
from robustcodec.lab.hyper import Hyper  # noqa: E402
from robustcodec.lab.hyper_start import LATENT_GAIN, orthonormal_start  # noqa: E402
from robustcodec.lab.networks import Gdn, round_straight_through, uniform_noise  # noqa: E402


def seeded(seed: int) -> Any:
    return torch.Generator().manual_seed(seed)


def exact_gaussian_bits(value: float, scale: float) -> float:
    """-log2 of the mass of a Gaussian on value ± 1/2, with 60 digits or more."""
    with mpmath.workdps(60):
        root = mpmath.sqrt(2) * scale
        mass = (mpmath.erfc((abs(value) - 0.5) / root) - mpmath.erfc((abs(value) + 0.5) / root)) / 2
        return float(-mpmath.log(mass, 2))


@pytest.mark.parametrize("scale", [0.05, 0.11, 0.5, 1.0, 7.3, 60.0, 256.0])
def test_gaussian_bits(scale: float) -> None:
    values = [0.0, 0.3, -0.5, 1.0, -1.0, 2.0, 5.0, -13.0, 100.0, -1000.0, 32767.0]
    bits = gaussian_bits(torch.tensor(values), torch.full((len(values),), scale))
    expected = [exact_gaussian_bits(value, max(scale, SCALE_MIN)) for value in values]
    assert bits.tolist() == pytest.approx(expected, rel=2e-4, abs=2e-5)


def test_gaussian_bits_have_the_gradients_of_finite_differences() -> None:
    values = torch.tensor([0.0, 0.4, -1.2, 3.0, -9.0, 40.0], dtype=torch.float64, requires_grad=True)
    scales = torch.tensor([0.2, 1.0, 0.7, 2.5, 1.3, 4.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gaussian_bits, (values, scales))


@pytest.mark.parametrize("scale", [0.0, 0.11, 1.0, 256.0])
def test_a_rate_attack_sees_a_gradient_however_far_a_latent_is(scale: float) -> None:
    magnitudes = torch.tensor([20.0, 300.0, 5000.0, 32767.0])
    values = torch.cat([magnitudes, -magnitudes]).requires_grad_()
    scales = torch.full((8,), scale, requires_grad=True)
    bits = gaussian_bits(values, scales)
    bits.sum().backward()
    assert bits.isfinite().all() and (bits > 4).all()
    assert values.grad is not None and scales.grad is not None
    assert values.grad.isfinite().all() and (values.grad.sign() == values.sign()).all()
    far = values.abs() > 2 * scale
    assert (scales.grad[far] < 0).all()  # a wider Gaussian would cost less


@torch.no_grad()
def test_large_latents_cost_what_an_escape_code_takes() -> None:
    torch.manual_seed(0)
    network = Hyper(8, 12)
    network.entropy_bottleneck.set_quantiles()
    y = (3000 * torch.randn(1, 12, 8, 8)).round()
    step = torch.ones(1, 1, 1, 1)
    bits = network.bits_in_file(y, y, step, round_straight_through)
    z_hat = network.quantised_side(y, round_straight_through)
    z = z_hat - network.entropy_bottleneck.medians()
    assert z.abs().max() > 100

    def cost(plain: float, symbol: float) -> float:
        with mpmath.workdps(60):
            escape = mpmath.mpf(2) ** -22 / (1 + abs(symbol)) ** 2
            return float(-mpmath.log(mpmath.mpf(2) ** -plain + escape, 2))

    z_bits = network.entropy_bottleneck.bits(z_hat)
    y_bits = gaussian_bits(y, network.gaussians(z_hat, y)[1])
    expected = sum(
        cost(*pair)
        for prices, symbols in ((z_bits, z), (y_bits, y))
        for pair in zip(prices.flatten().tolist(), symbols.flatten().tolist(), strict=True)
    )
    assert float(bits) == pytest.approx(expected, rel=1e-4)


def test_lower_bound_passes_only_what_raises() -> None:
    x = torch.tensor([-1.0, -1.0, 0.5, 2.0, 2.0], requires_grad=True)
    bounded = lower_bound(x, 0.5)
    assert bounded.tolist() == [0.5, 0.5, 0.5, 2.0, 2.0]
    bounded.backward(torch.tensor([3.0, -3.0, 3.0, 3.0, -3.0]))
    assert x.grad is not None
    # descending on a negative gradient raises x
    assert x.grad.tolist() == [0.0, -3.0, 3.0, 3.0, -3.0]


@pytest.fixture(scope="module")
def prior() -> FactorizedPrior:
    """A prior of three channels with every parameter random."""
    prior = FactorizedPrior(3)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(torch.rand(parameter.shape, generator=seeded(5)) - 0.5)
    return prior


def exact_prior_bits(prior: FactorizedPrior, channel: int, value: float) -> float:
    """-log2 of the mass on value ± 1/2: a chain of x + tanh(a) tanh(x) over positive matrices, then a sigmoid."""

    def logit(point: Any) -> Any:
        x = [point]
        for layer, (matrix, bias) in enumerate(zip(prior.matrices, prior.biases, strict=True)):
            rows = [[mpmath.log(1 + mpmath.exp(w)) for w in row] for row in matrix[channel].tolist()]
            x = [sum(w * v for w, v in zip(row, x, strict=True)) for row in rows]
            x = [v + b for v, (b,) in zip(x, bias[channel].tolist(), strict=True)]
            if layer < len(prior.factors):
                factors = prior.factors[layer][channel].tolist()
                x = [v + mpmath.tanh(a) * mpmath.tanh(v) for v, (a,) in zip(x, factors, strict=True)]
        return x[0]

    with mpmath.workdps(60):
        upper, lower = (1 / (1 + mpmath.exp(-logit(mpmath.mpf(value) + half))) for half in (0.5, -0.5))
        return float(-mpmath.log(upper - lower, 2))


def test_prior_bits(prior: FactorizedPrior) -> None:
    values = [0.0, 0.5, -1.0, 2.0, -5.25, 20.0, -60.0]
    z = torch.tensor(values).reshape(1, 1, 1, -1).expand(1, 3, 1, -1)
    bits = prior.bits(z)
    assert bits.shape == z.shape
    for channel in range(3):
        expected = [exact_prior_bits(prior, channel, value) for value in values]
        assert bits[0, channel, 0].tolist() == pytest.approx(expected, rel=1e-4)


def test_prior_keeps_batch_and_channels_apart(prior: FactorizedPrior) -> None:
    z = torch.randn((2, 3, 4, 5), generator=seeded(6))
    bits = prior.bits(z)
    for batch, channel in np.ndindex(2, 3):
        alone = prior.bits(z[batch, :, 2:3, 3:4][None])[0, channel, 0, 0]
        assert torch.isclose(bits[batch, channel, 2, 3], alone)


def test_prior_bits_have_the_gradients_of_finite_differences(prior: FactorizedPrior) -> None:
    double = FactorizedPrior(3).double()
    double.load_state_dict(prior.state_dict())
    z = (4 * torch.randn((1, 3, 2, 2), generator=seeded(7))).double().requires_grad_()
    assert torch.autograd.gradcheck(double.bits, (z,))


@pytest.mark.parametrize("magnitude", [50.0, 1000.0, 32767.0])
def test_prior_is_finite_with_a_gradient_however_far(prior: FactorizedPrior, magnitude: float) -> None:
    z = torch.full((1, 3, 1, 2), magnitude)
    z[..., 1] *= -1
    z.requires_grad_()
    bits = prior.bits(z)
    bits.sum().backward()
    assert bits.isfinite().all() and (bits > 15).all()
    assert z.grad is not None and z.grad.isfinite().all()
    assert (z.grad.sign() == z.detach().sign()).all()


def test_prior_is_a_distribution(prior: FactorizedPrior) -> None:
    z = torch.arange(-400.0, 401.0).reshape(1, 1, 1, -1).expand(1, 3, 1, -1)
    assert torch.exp2(-prior.bits(z)).sum(-1).flatten().tolist() == pytest.approx([1.0] * 3, abs=1e-5)


def test_quantiles_are_those_of_the_cumulative_function(prior: FactorizedPrior) -> None:
    prior.set_quantiles()
    cumulative = torch.sigmoid(prior.logits(prior.quantiles).double())
    assert torch.allclose(cumulative[:, 0, 1], torch.tensor(0.5).double(), atol=1e-6)
    assert cumulative[:, 0, 0].tolist() == pytest.approx([0.5e-9] * 3, rel=1e-2)
    assert torch.sigmoid(-prior.logits(prior.quantiles)[:, 0, 2].double()).tolist() == pytest.approx(
        [0.5e-9] * 3, rel=1e-2
    )
    assert torch.equal(prior.medians().flatten(), prior.quantiles[:, 0, 1])


@pytest.mark.parametrize("inverse", [False, True])
def test_gdn(inverse: bool) -> None:
    beta, gamma = torch.rand(4, generator=seeded(1)) + 0.1, torch.rand((4, 4), generator=seeded(2))
    gdn = Gdn(4, inverse).requires_grad_(False)
    gdn.set_parameters(beta, gamma)
    x = torch.randn((2, 4, 3, 5), generator=seeded(3))
    expected = np.empty(x.shape)
    for b, c, i, j in np.ndindex(*x.shape):
        energy = float(beta[c]) + sum(float(gamma[c, k]) * float(x[b, k, i, j]) ** 2 for k in range(4))
        expected[b, c, i, j] = float(x[b, c, i, j]) * (math.sqrt(energy) if inverse else 1 / math.sqrt(energy))
    assert np.allclose(gdn(x).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_gdn_keeps_its_parameters_and_their_bounds() -> None:
    gdn = Gdn(3)
    beta, gamma = torch.tensor([1.0, 1e-3, 0.0]), torch.tensor([[0.0, 1e-5, 3.0]]).repeat(3, 1)
    gdn.set_parameters(beta, gamma)
    real_beta, real_gamma = gdn.parameters_in_use()
    assert real_beta.tolist() == pytest.approx([1.0, 1e-3, 1e-6], rel=1e-5)  # never zero: it is divided by
    assert real_gamma[0].tolist() == pytest.approx([0.0, 1e-5, 3.0], rel=1e-5, abs=1e-15)
    with torch.no_grad():
        gdn.beta.fill_(-5.0)
        gdn.gamma.fill_(-5.0)
    assert gdn.parameters_in_use()[0].min() > 0 and gdn.parameters_in_use()[1].min() >= 0


@pytest.mark.parametrize("inverse", [False, True])
def test_gdn_has_the_gradients_of_finite_differences(inverse: bool) -> None:
    gdn = Gdn(3, inverse).double()
    x = torch.randn((1, 3, 2, 2), generator=seeded(4)).double().requires_grad_()
    assert torch.autograd.gradcheck(gdn, (x,))


def test_rounding_has_the_gradient_of_the_identity() -> None:
    x = torch.tensor([-1.5, -0.2, 0.5, 1.5, 2.6], requires_grad=True)
    rounded = round_straight_through(x)
    assert rounded.tolist() == [-2.0, 0.0, 0.0, 2.0, 3.0]
    rounded.backward(torch.arange(5.0))
    assert x.grad is not None and x.grad.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_noise_is_uniform_and_follows_its_generator() -> None:
    values = torch.full((100, 100), 3.0)
    noise = uniform_noise(seeded(1))(values) - values
    assert noise.min() >= -0.5 and noise.max() < 0.5
    assert abs(float(noise.mean())) < 0.01
    assert float(noise.var()) == pytest.approx(1 / 12, rel=0.03)
    assert torch.equal(uniform_noise(seeded(1))(values) - values, noise)


@pytest.fixture(scope="module")
def network() -> Hyper:
    torch.manual_seed(1)
    network = Hyper(4, 6).requires_grad_(False)
    network.g_a[6].weight.mul_(20)
    return network


def test_shapes_of_sizes_that_the_side_information_does_not_divide(network: Hyper) -> None:
    x = torch.rand((2, 3, 80, 112), generator=seeded(2))
    y = network.analyse(x)
    assert y.shape == (2, 6, 5, 7)
    coded = network(x, torch.ones(2), round_straight_through, round_straight_through)
    assert coded.x_hat.shape == x.shape
    assert coded.y_bits.shape == coded.z_bits.shape == (2,)
    assert torch.equal(coded.bits, coded.y_bits + coded.z_bits)


def test_forward_is_its_parts(network: Hyper) -> None:
    x, step = torch.rand((2, 3, 64, 128), generator=seeded(3)), torch.tensor([0.6, 2.5])
    coded = network(x, step, round_straight_through, round_straight_through)
    y = network.g_a(x)
    medians = network.entropy_bottleneck.medians()
    z_hat = torch.round(network.h_a(y.abs()) - medians) + medians
    scales = network.h_s(z_hat)
    symbols = torch.round(y / step[:, None, None, None])
    assert symbols.abs().max() > 1
    assert torch.allclose(coded.x_hat, network.g_s(symbols * step[:, None, None, None]), atol=1e-6)
    for index in range(2):
        bits = gaussian_bits(symbols[index], scales[index] / step[index]).sum()
        assert torch.isclose(coded.y_bits[index], bits)
        assert torch.isclose(coded.z_bits[index], network.entropy_bottleneck.bits(z_hat)[index].sum())


def test_rate_and_distortion_may_quantise_differently(network: Hyper) -> None:
    x, step = torch.rand((1, 3, 64, 64), generator=seeded(4)), torch.ones(1)
    rounded = network(x, step, round_straight_through, round_straight_through)
    noisy = uniform_noise(seeded(5))
    mixed = network(x, step, noisy, round_straight_through)
    assert torch.equal(mixed.x_hat, rounded.x_hat) and not torch.equal(mixed.y_bits, rounded.y_bits)
    # one quantiser for both quantises y once: the picture is made of what was coded
    calls: list[int] = []

    def counting(values: Any) -> Any:
        calls.append(values.shape[1])
        return values

    network(x, step, counting, counting)
    assert calls == [network.m, network.n]


def test_latents_stay_in_float32_under_autocast(network: Hyper) -> None:
    x = torch.rand((1, 3, 64, 64), generator=seeded(6))
    with torch.autocast("cpu", torch.bfloat16):
        y = network.analyse(x)
        coded = network(x, torch.ones(1), round_straight_through, round_straight_through)
    assert y.dtype == coded.x_hat.dtype == coded.bits.dtype == torch.float32
    assert not torch.equal(y, y.bfloat16().float())


@pytest.fixture(scope="module")
def crops(make_sample: Callable[..., np.ndarray[Any, Any]]) -> Any:
    """Smooth pictures (12, 3, 128, 128) in [0, 1]."""
    stack = np.stack([make_sample(128, 128, seed) for seed in range(12)])
    x = torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255
    return torch.nn.functional.avg_pool2d(x, 5, stride=1, padding=2, count_include_pad=False)


@pytest.fixture(scope="module")
def started(crops: Any) -> Hyper:
    torch.manual_seed(1)
    network = Hyper().requires_grad_(False)
    orthonormal_start(network, crops[:10], seeded(1))
    return network


def bases(started: Hyper) -> list[Any]:
    """Rows of each analysis stage that are set: (kept, 4 * inputs)."""
    result = []
    inputs = 3
    for layer, outputs in zip((0, 2, 4, 6), (128, 128, 128, 192), strict=True):
        kept = min(4 * inputs, outputs)
        weight = started.g_a[layer].weight[:kept, :inputs]
        outside = weight.clone()
        outside[:, :, 2:4, 2:4] = 0
        assert not outside.any()
        result.append(weight[:, :, 2:4, 2:4].flatten(1))
        inputs = kept
    return result


def test_the_start_is_orthonormal(started: Hyper) -> None:
    for stage, basis in enumerate(bases(started)):
        gain = LATENT_GAIN if stage == 3 else 1.0
        assert torch.allclose(basis @ basis.T, gain**2 * torch.eye(basis.shape[0]), atol=1e-4 * gain**2)


def test_synthesis_starts_as_the_transpose(started: Hyper) -> None:
    for stage, basis in enumerate(bases(started)):
        kept, inputs = basis.shape[0], basis.shape[1] // 4
        kernel = started.g_s[6 - 2 * stage].weight[:kept, :inputs, 2:4, 2:4].flatten(1)
        gain = LATENT_GAIN**2 if stage == 3 else 1.0
        assert torch.allclose(kernel * gain, basis, atol=1e-5 * gain)


def test_energy_is_kept_while_no_channel_is_dropped(started: Hyper, crops: Any) -> None:
    x = crops[10:]
    centred = x - crops[:10].mean((0, 2, 3))[:, None, None]
    first = started.g_a[0](x)[:, :12]
    assert torch.allclose(first.square().sum((1, 2, 3)), centred.square().sum((1, 2, 3)), rtol=1e-4)
    second = started.g_a[2](torch.nn.functional.pad(first, (0, 0, 0, 0, 0, 116)))[:, :48]
    assert torch.allclose(second.square().sum((1, 2, 3)), centred.square().sum((1, 2, 3)), rtol=1e-4)


def test_the_start_reconstructs_pictures_that_it_has_not_seen(started: Hyper, crops: Any) -> None:
    x = crops[10:, :, 16:112, 32:128]
    x_hat = started.synthesise(started.analyse(x))
    psnr = -10 * torch.log10((x_hat - x).square().mean((1, 2, 3)))
    assert psnr.min() > 30, psnr


def test_scales_start_as_the_local_energy(started: Hyper, crops: Any) -> None:
    y = started.analyse(crops[10:])
    scales = started.h_s(started.h_a(y.abs()))
    assert scales.isfinite().all() and scales.min() >= 0
    loud = started.h_s(started.h_a(3 * y.abs()))
    assert loud.mean() > 1.5 * scales.mean()
    # and they follow it over the picture: nothing happens in the left half of this one
    half = crops[10:].clone()
    half[..., :64] = crops[:10].mean((0, 2, 3))[:, None, None]
    scales = started.h_s(started.h_a(started.analyse(half).abs()))
    assert scales[..., :4].mean() < 0.6 * scales[..., 4:].mean()

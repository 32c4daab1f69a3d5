"""The cheng network against CompressAI's Cheng2020Anchor, and its start."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch deprecates what compressai does while it is imported
    compressai_models = pytest.importorskip("compressai.models")

from regenerate import CHENG  # noqa: E402
from torch import Tensor  # noqa: E402

from robustcodec.architectures import Group  # noqa: E402
from robustcodec.bundle import open_bundle  # noqa: E402
from robustcodec.codec import Codec  # noqa: E402
from robustcodec.container import unpack  # noqa: E402
from robustcodec.errors import TrainingError  # noqa: E402
from robustcodec.images import Picture  # noqa: E402
from robustcodec.lab import cheng_transplant as transplant  # noqa: E402
from robustcodec.lab.architectures import make_network  # noqa: E402
from robustcodec.lab.checkpoints import load_weights, network_of, weights_of_bundle  # noqa: E402
from robustcodec.lab.cheng import Cheng  # noqa: E402
from robustcodec.lab.entropy_models import SCALES  # noqa: E402
from robustcodec.lab.export import export  # noqa: E402
from robustcodec.lab.interop import compressai_model, fold_step, write_for_compressai  # noqa: E402
from robustcodec.lab.networks import Network, round_straight_through, softly_rounded, uniform_noise  # noqa: E402
from robustcodec.metrics import psnr  # noqa: E402
from robustcodec.rate import Quality  # noqa: E402
from robustcodec.strips import quantised, walk  # noqa: E402

Sample = Callable[..., np.ndarray[Any, Any]]


def seeded(seed: int) -> Any:
    return torch.Generator().manual_seed(seed)


def crops_of(make_sample: Sample, *seeds: int, size: tuple[int, int] = (64, 64)) -> Tensor:
    return torch.stack([torch.from_numpy(make_sample(*size, seed)).permute(2, 0, 1) / 255 for seed in seeds])


@pytest.fixture(scope="module")
def network(make_sample: Sample) -> Network:
    """A network with every parameter a little random, so that no error of place can hide behind a zero."""
    torch.manual_seed(6)
    network = make_network("cheng", (8, 8)).requires_grad_(False)
    network.start(crops_of(make_sample, *range(20, 36)), seeded(1))
    generator = seeded(7)
    for parameter in network.parameters():
        parameter.add_(0.05 * (parameter.abs().mean() + 0.05) * torch.randn(parameter.shape, generator=generator))
    assert isinstance(network, Cheng)
    network.context_prediction.weight.mul_(20 * network.context_prediction.mask)
    network.entropy_parameters[4].weight[8:].mul_(3)
    # scales of the size of y: CompressAI's likelihoods stop at 1e-9, ours do not
    network.entropy_parameters[4].bias[:8] += network.analyse(crops_of(make_sample, 40)).abs().amax((0, 2, 3))
    network.entropy_bottleneck.set_quantiles()
    return network


@pytest.fixture(scope="module")
def pictures(make_sample: Sample) -> Tensor:
    return crops_of(make_sample, 40, size=(128, 64))


def test_its_parameters_are_compressais() -> None:
    ours, theirs = make_network("cheng", (8, 8)).state_dict(), compressai_models.Cheng2020Anchor(8).state_dict()
    # but for what CompressAI does not have, and does not miss
    assert {name: tensor.shape for name, tensor in ours.items() if not name.endswith(".limit")} == {
        name: theirs[name].shape for name in theirs.keys() & ours.keys()
    }
    assert {name for name, _ in compressai_models.Cheng2020Anchor(8).named_parameters()} <= ours.keys()


def test_a_checkpoint_of_compressai_computes_the_same_here(pictures: Tensor) -> None:
    torch.manual_seed(3)
    model = compressai_models.Cheng2020Anchor(8).eval().requires_grad_(False)
    said: list[str] = []
    network = network_of(model.state_dict(), "theirs", said.append)
    assert said == []
    y = network.analyse(pictures)
    assert torch.allclose(y, model.g_a(pictures), atol=1e-5)
    assert torch.allclose(network.side_information(y), model.h_a(y), atol=1e-5)
    assert torch.allclose(network.synthesise(30 * y), model.g_s(30 * y), atol=1e-4)
    z_hat = 9 * network.side_information(y).round() + 1
    scales, means = model.entropy_parameters(torch.cat([model.h_s(z_hat), model.context_prediction(y)], dim=1)).chunk(
        2, 1
    )
    for ours, theirs in zip(network.gaussians(z_hat, y), (means, scales), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("step", [0.7, 1.0, 2.0])
def test_rounding_is_that_of_compressais_compress(network: Network, pictures: Tensor, step: float) -> None:
    """Its two functions code one latent after another, ours all of a front at once, at any step."""
    model = compressai_model(network.state_dict(), step)
    steps = torch.full((1,), step)
    with torch.no_grad():
        coded = network(pictures, steps, round_straight_through, round_straight_through)
        strings = model.compress(pictures)
        shown = model.decompress(**strings)["x_hat"]
    assert coded.y_bits > 300  # latents that are all zero would prove nothing
    # a latent at a threshold may fall to the other side, and what follows it with it
    assert (coded.x_hat.clamp(0, 1) - shown).abs().mean() < 1e-4
    real = 8 * sum(len(string) for each in strings["strings"] for string in each)
    assert 0.98 * float(coded.bits) < real < 1.03 * float(coded.bits) + 4 * 64


def test_noise_is_added_whatever_the_means(network: Network, pictures: Tensor) -> None:
    y, step = network.analyse(pictures), torch.full((1, 1, 1, 1), 0.7)
    symbols = network.quantised(y / step, step, uniform_noise(seeded(5)))
    assert torch.equal(symbols, uniform_noise(seeded(5))(y / step))


def test_soft_rounding_is_around_the_means(network: Network, pictures: Tensor) -> None:
    """Each latent between itself and what the codec makes of it, which a curve around whole steps is not."""
    y, step = network.analyse(pictures), torch.full((1, 1, 1, 1), 0.7)
    latents = y / step
    middle, reach = network.zero_bins(latents, step, None)
    symbols = network.quantised(latents, step, round_straight_through)
    softly = network.quantised(latents, step, softly_rounded)
    assert (middle - middle.round()).abs().mean() > 0.05 and float(reach) == 0.5
    assert torch.allclose(softly, middle + softly_rounded(latents - middle), atol=1e-5)
    kept = (symbols - middle).round() == (
        latents - middle
    ).round()  # not at a threshold, where a rounding error decides
    assert kept.float().mean() > 0.999
    assert ((softly - latents) * (symbols - latents) >= -1e-4)[kept].all()
    assert (softly - symbols).abs().mean() < (softly_rounded(latents) - symbols).abs().mean()


def test_rounded_latents_are_whole_steps_from_their_means(network: Network, pictures: Tensor) -> None:
    y, step = network.analyse(pictures), torch.full((1, 1, 1, 1), 0.7)
    symbols = network.quantised(y / step, step, round_straight_through)
    y_bits, _, _ = network.bits_of_each(y, symbols, step, round_straight_through)
    means, _ = network.gaussians(network.quantised_side(y, round_straight_through), symbols * step)
    coded = symbols - means / step
    assert (coded - coded.round()).abs().max() < 1e-3
    assert (symbols - y / step).abs().max() < 0.5 + 1e-3
    assert coded.abs().max() > 3 and y_bits.min() > 0


def test_gradients_pass_rounding(network: Network, pictures: Tensor) -> None:
    x = pictures.clone().requires_grad_()
    coded = network(x, torch.ones(1), round_straight_through, round_straight_through)
    (coded.bits.sum() + coded.x_hat.sum()).backward()
    assert x.grad is not None and bool(torch.isfinite(x.grad).all()) and x.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["network.pth.tar", "network.safetensors"])
def test_compressai_loads_what_is_written_and_so_do_we(network: Network, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_for_compressai(network.state_dict(), 1.0, path)
    again = network_of(load_weights(path), name).state_dict()
    for key, tensor in network.state_dict().items():
        assert torch.equal(again[key], tensor), key
    if path.suffix != ".safetensors":
        model = compressai_models.Cheng2020Anchor.from_state_dict(torch.load(path, weights_only=True))
        assert torch.equal(model.g_s[1].upsample[0].weight, network.g_s[1].upsample[0].weight)


def test_folding_takes_back_itself(network: Network) -> None:
    weights = network.state_dict()
    back = fold_step(fold_step(weights, 4.0), 0.25)
    assert all(torch.equal(back[name], weights[name]) for name in weights)


def test_sizes_must_be_equal() -> None:
    with pytest.raises(TrainingError, match="as many channels"):
        make_network("cheng", (8, 12))


def test_the_start_codes_pictures_already(make_sample: Sample) -> None:
    """Before the first step; random kernels give some 10 dB."""
    crops = crops_of(make_sample, *range(20))
    torch.manual_seed(0)
    network = make_network("cheng", (32, 32))
    network.start(crops[:16], seeded(1))
    with torch.no_grad():
        coded = network(crops[16:], torch.ones(4), round_straight_through, round_straight_through)
    decibels = -10 * (coded.x_hat.clamp(0, 1) - crops[16:]).square().mean((1, 2, 3)).log10()
    assert decibels.min() > 24
    assert float(coded.bits.mean()) / 64**2 < 1.5
    for layer, parameter in network.named_parameters():
        assert bool(torch.isfinite(parameter).all()), layer


def test_a_transplant_does_what_the_trained_network_does(make_sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transplant, "_STEPS", 40)
    crops = crops_of(make_sample, *range(28))
    torch.manual_seed(0)
    trained, network = make_network("hyper", (24, 24)), make_network("cheng", (24, 24))
    trained.start(crops[:24], seeded(1))
    asked: list[int] = []

    def draw(count: int) -> Tensor:
        asked.append(count)
        return crops[:24]

    network.start_from(trained, draw, seeded(2))
    assert asked == [transplant.CROPS]
    with torch.no_grad():
        coded, expected = (
            each(crops[24:], torch.ones(4), round_straight_through, round_straight_through)
            for each in (network, trained)
        )
        y = trained.analyse(crops[24:]).round()
        shown, meant = network.synthesise(y), trained.synthesise(y)
    assert (shown - meant).square().mean() < 0.01 * (meant - crops[24:]).square().mean()
    ours, theirs = ((each.x_hat.clamp(0, 1) - crops[24:]).square().mean() for each in (coded, expected))
    assert ours < 1.3 * theirs
    assert float(coded.bits.sum()) < 1.1 * float(expected.bits.sum())
    assert all(bool(torch.isfinite(parameter).all()) for parameter in network.parameters())


def test_only_cheng_can_begin_with_another_architecture() -> None:
    for network, trained, wanted in (
        (("hyper", (8, 12)), ("cheng", (8, 8)), "give weights of hyper"),
        (("cheng", (8, 8)), ("hyper", (12, 12)), "or of hyper with as many channels inside"),
    ):
        with pytest.raises(TrainingError, match=wanted):
            make_network(*network).start_from(make_network(*trained), lambda _: torch.zeros(0), seeded(0))


# --- the bundle -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec(open_bundle(CHENG), threads=1)


@pytest.mark.parametrize("quality", [1, 6])
def test_the_codec_does_what_compressai_does(codec: Codec, make_sample: Sample, quality: float) -> None:
    """The same picture in no more bytes, out of the bundle's weights: ours has integers and fitted tables."""
    pixels = make_sample(256, 192, 3)
    encoded = codec.encode(Picture(pixels=pixels), Quality(quality), measure=True)
    assert encoded.reconstruction is not None
    model = compressai_model(weights_of_bundle(codec.bundle), encoded.step / 1024)
    with torch.inference_mode():
        strings = model.compress(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
        shown = (model.decompress(**strings)["x_hat"][0] * 255).round().byte().permute(1, 2, 0).numpy()
    assert abs(psnr(pixels, encoded.reconstruction) - psnr(pixels, shown)) < 0.02
    theirs = sum(len(string) for each in strings["strings"] for string in each)
    assert 0.8 * theirs < len(unpack(encoded.data).payload[0]) - 4 < 1.005 * theirs


def test_integers_are_the_real_means_and_scales(codec: Codec, make_sample: Sample) -> None:
    """Another table only where a scale is almost between two; means to a few units of 1/1024."""
    strip = codec._prepare(Picture(pixels=make_sample(128, 96, 5))).strips[0]  # type: ignore[index]
    means = np.empty(strip.y.shape)
    tables = np.empty(strip.y.shape)

    def note(group: Group) -> Any:
        means[group.positions], tables[group.positions] = group.mean / 1024, group.table
        return quantised(strip.y, group, 1024, strip.dead_zones)

    y_hat = walk(strip.conditions.schedule(1024), note).y_hat
    network = network_of(weights_of_bundle(codec.bundle), "the bundle")
    z_hat = torch.from_numpy(strip.z)[None] + network.entropy_bottleneck.medians()
    with torch.no_grad():
        real_means, real_scales = network.gaussians(z_hat, torch.from_numpy(y_hat)[None] / 1024)
    assert np.abs(means).max() > 1
    assert np.abs(means - real_means[0].numpy()).max() < 0.004 * np.abs(means).max()
    nearest = np.searchsorted(np.log(SCALES), np.log(np.maximum(real_scales[0].numpy(), SCALES[0])))
    assert (np.abs(tables - nearest) <= 1).all()
    assert np.unique(tables).size > 10


def test_weights_that_a_bundle_gives_back_export_again(codec: Codec, make_sample: Sample, tmp_path: Path) -> None:
    weights = weights_of_bundle(codec.bundle)
    pictures = [make_sample(64, 64, 1)]
    again = export(
        weights, tmp_path / "model", id="again", variant="base", provenance={},
        calibration=pictures, validation=pictures, announce=lambda _: None,
    )  # fmt: skip
    lengths = again.code_length
    assert lengths.exact < 1.0005 * lengths.rounded_scale
    committed = codec.bundle.manifest.provenance["code_length"]
    assert committed["exact"] < 1.0005 * committed["rounded_scale"]
    for name, tensor in weights_of_bundle(again.bundle).items():
        if not name.endswith("quantiles"):
            assert (tensor - weights[name]).abs().max() <= 2e-3 * weights[name].abs().max() + 1e-6, name

"""Restraint: dead zones as the lab models them, attacks that know them, and tables of attacked latents."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from regenerate import sample
from torch import Tensor

from robustcodec.bundle import Bundle
from robustcodec.codec import Codec
from robustcodec.images import Picture, write_picture
from robustcodec.lab import dead_zones as module
from robustcodec.lab.adversaries import held_rate
from robustcodec.lab.attacks.crossing import _BEYOND, _Start
from robustcodec.lab.attacks.shipped import victim_of
from robustcodec.lab.attacks.victim import NetworkVictim, code, unrounded
from robustcodec.lab.cheng import Cheng
from robustcodec.lab.dead_zones import by_scale, dead_zones
from robustcodec.lab.entropy_models import SCALES, gaussian_bits
from robustcodec.lab.export import export, export_run
from robustcodec.lab.hardening import fast_loss
from robustcodec.lab.hyper import Hyper
from robustcodec.lab.hyper_start import orthonormal_start
from robustcodec.lab.losses import Batch
from robustcodec.lab.networks import Network, outside, round_straight_through, softly_rounded
from robustcodec.lab.recipe import Hardening, Method, Phase, Recipe, Rounding
from robustcodec.lab.restraint import FULL, NONE, Restraint, attacked, restraint_of
from robustcodec.lab.runs import Run, Settings, State, cpu_copy
from robustcodec.lab.search_adversary import _Victim

PICTURES = [sample(128, 128, seed) for seed in range(4)]
CPU = torch.device("cpu")


def pixels_as_tensor(pictures: list[Any]) -> Tensor:
    return torch.stack([torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures]).float() / 255


@pytest.fixture(scope="module")
def network() -> Hyper:
    torch.manual_seed(0)
    network = Hyper(8, 12)
    orthonormal_start(network, pixels_as_tensor(PICTURES), torch.Generator().manual_seed(5))
    return network


def exported(network: Network, folder: Path, restraint: Restraint) -> Bundle:
    return export(
        network.state_dict(),
        folder,
        id="held",
        variant="robust",
        provenance={},
        calibration=PICTURES[:3],
        validation=PICTURES[3:],
        announce=lambda text: None,
        restraint=restraint,
    ).bundle


@pytest.fixture(scope="module")
def held(network: Hyper, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exported(network, tmp_path_factory.mktemp("models") / "held", FULL)


def test_zones_are_the_wider_the_smaller_the_scale() -> None:
    widths = dead_zones()
    assert widths.shape == (64,) and (np.diff(widths) <= 0).all()
    assert widths[0] > 1 and (widths[np.array(SCALES) >= 0.5] == 0.5).all()
    zones = by_scale(widths)
    assert zones is not None and by_scale(np.full(64, 0.5, np.float32)) is None
    at = torch.tensor(SCALES, dtype=torch.float32)
    assert zones(at).tolist() == widths.tolist()
    assert zones(at * 1.05).tolist() == widths.tolist()  # the nearest, as the codec takes it
    assert zones(torch.tensor([1e-3, 1e6])).tolist() == [widths[0], widths[-1]]


@pytest.mark.parametrize("reach", [0.5, 0.7, 1.0, 2.0])
def test_what_stands_for_rounding_has_the_zones_edge(reach: float) -> None:
    u = torch.linspace(-4.0013, 4.0013, 1600, dtype=torch.float64)  # none of them on an edge
    width = torch.full_like(u, reach)
    hard = outside(u, width, round_straight_through)
    assert torch.equal(hard, torch.where(u.abs() < reach, 0.0, u.round()))
    stretched = outside(u, width, unrounded)
    assert (stretched.diff() > 0).all()
    assert torch.equal(stretched.abs() < 0.5, u.abs() < reach)
    far = u.abs() >= reach + 1
    assert torch.allclose(stretched[far], u[far]) and torch.allclose(stretched, -stretched.flip(0))
    if reach == 0.5:
        assert torch.allclose(stretched, u)


def test_rounding_within_zones_passes_gradients_on() -> None:
    u = torch.tensor([0.3, 0.8, 1.7], requires_grad=True)
    outside(u, torch.ones(3), round_straight_through).sum().backward()
    assert u.grad is not None and u.grad.tolist() == [1, 1, 1]


def test_the_victim_expects_the_real_file_of_a_held_encoder(network: Hyper, tmp_path: Path) -> None:
    """Without dither, whose offsets a victim does not have."""
    held = exported(network, tmp_path / "held", Restraint(dead_zones=True, attacked_share=0.1))
    codec, victim = Codec(held), victim_of(held, 4.0, CPU)
    assert victim.dead_zones is not None
    x = pixels_as_tensor(PICTURES[3:])
    with torch.no_grad():
        figures = code(victim, x, x)
        expected = float(figures.bpp) * 128 * 128 / 8
    encoded = codec.encode(Picture(pixels=PICTURES[3]), measure=True)
    assert expected == pytest.approx(len(encoded.data) - 38, rel=0.01, abs=4)  # the container
    assert encoded.reconstruction is not None
    real = np.square(encoded.reconstruction.astype(float) - PICTURES[3]).mean() / 255**2
    assert float(figures.mse) == pytest.approx(real, rel=0.01)


def test_cheng_makes_zeros_around_its_means() -> None:
    torch.manual_seed(1)
    network = Cheng(8, 8)
    for parameter in network.entropy_parameters.parameters():
        parameter.data.mul_(3)
    latents = torch.randn(1, 8, 4, 8) * 2
    step = torch.ones(1, 1, 1, 1)
    zones = by_scale(np.full(64, 1.5, np.float32))
    assert zones is not None
    middle, reach = network.zero_bins(latents, step, zones)
    hard = network.quantised(latents, step, round_straight_through, zones)
    left = latents - middle
    assert torch.allclose(hard - middle, torch.where(left.abs() < 1.5, 0.0, left.round()), atol=1e-4)
    assert middle.abs().max() > 0.05 and (reach == 1.5).all()
    soft = network.quantised(latents, step, softly_rounded, zones)
    assert torch.equal((soft - middle).abs() < 0.5, left.abs() < 1.5)
    plain = network.quantised(latents, step, round_straight_through)
    assert not torch.allclose(plain, hard)


def test_crossings_know_where_zones_end() -> None:
    """Moved by its distance a latent has another symbol, moved by a little less it keeps its own."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 8, 8, generator=generator) * 1.5
    reach = torch.full_like(latents, 0.8)
    symbols = outside(latents, reach, round_straight_through)
    one = torch.ones_like(latents)
    start = _Start(latents, symbols, torch.zeros(()), reach, one, one)
    for towards in (one, -one):
        distance = start.distance(towards)
        beyond, before = (
            outside(latents + towards * (distance - less), reach, round_straight_through)
            for less in (_BEYOND / 2, _BEYOND * 1.5)
        )
        assert ((beyond - symbols) * towards >= 1).all()
        assert torch.equal(before, symbols)


def test_the_rate_of_a_held_encoder_has_the_gradient_of_differences(network: Hyper) -> None:
    zones = by_scale(dead_zones())
    assert zones is not None
    rate = held_rate(zones)
    x = pixels_as_tensor(PICTURES[:1])[:, :, :64, :64].double()
    double = Hyper(8, 12).double()
    double.load_state_dict(network.state_dict())
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    step = torch.ones(1, dtype=torch.float64)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(rate(double, x, x, step, x).sum(), x)
    with torch.no_grad():
        ahead, behind = (float(rate(double, x + side * 1e-7 * direction, x, step, x)) for side in (1, -1))
    assert float((gradient * direction).sum()) == pytest.approx((ahead - behind) / 2e-7, rel=1e-3)


def test_tables_that_know_attacks_ask_less_for_them(network: Hyper, held: Bundle, tmp_path: Path) -> None:
    zones_alone = exported(network, tmp_path / "zones", Restraint(dead_zones=True, dither=True))
    again = exported(network, tmp_path / "again", FULL)
    assert again.manifest.provenance["restraint"] == {"dead_zones": True, "dither": True, "attacked_share": 0.1}
    assert {name: (array == held.entropy[name]).all() for name, array in again.entropy.items()} == dict.fromkeys(
        held.entropy, True
    )
    hostile = attacked(victim_of(zones_alone, 4.0, CPU), PICTURES, torch.Generator().manual_seed(9))
    # nearly all that tables are counted on: files of this size do not tell a tenth
    knowing = exported(network, tmp_path / "knowing", Restraint(dead_zones=True, dither=True, attacked_share=0.9))
    sizes = [sum(len(Codec(each).encode(Picture(pixels=x)).data) for x in hostile) for each in (knowing, zones_alone)]
    assert sizes[0] < sizes[1]
    plain = exported(network, tmp_path / "plain", NONE)
    assert "dead_zones" not in plain.analysis and "restraint" not in plain.manifest.provenance


def test_crops_to_attack_are_as_large_as_the_pictures_they_are_cut_from(
    network: Hyper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every second picture: those in between do not count."""
    monkeypatch.setattr("robustcodec.lab.restraint._STEPS", 1)
    pictures = [sample(100, 100), sample(200, 200), sample(64, 100)]
    for some, side, count in ((pictures, 64, 2), (pictures[1:], 128, 1)):
        found = attacked(NetworkVictim(network, 1.0), some, torch.Generator().manual_seed(0))
        assert [each.shape for each in found] == [(side, side, 3)] * count


def test_the_loss_of_fast_codes_as_a_held_encoder_does(network: Hyper, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding within zones in the distortion; in the rate noise on latents that zones have stretched."""
    monkeypatch.setattr(module, "_WIDTHS", ((1.0, 2.0), (4.0, 0.8)))  # so small a network has no small scales
    hardening = Hardening(method=Method.FAST, bpp_share=0.5, dead_zones=True)
    x = pixels_as_tensor(PICTURES[:2])[:, :, :64, :64]
    step, slope = torch.tensor([1.0, 0.7]), torch.tensor([0.013, 0.025])
    batch = Batch(x, step, slope, torch.Generator().manual_seed(7), Rounding.MIXED)
    with torch.no_grad():
        found = fast_loss(hardening, lambda network, batch: batch.x)(network, batch)
        generator = torch.Generator().manual_seed(7)
        y = network.analyse(x)
        u = y / step.reshape(-1, 1, 1, 1)
        of_y = torch.rand(u.shape, generator=generator) - 0.5
        medians = network.entropy_bottleneck.medians()
        z = network.h_a(y.abs())
        at_zones = network.h_s((z - medians).round() + medians)[:, :, :4, :4] / step.reshape(-1, 1, 1, 1)
        widths = torch.from_numpy(dead_zones())
        logarithms = torch.tensor(SCALES).float().log()
        reach = widths[(at_zones.clamp(min=0.11).log()[..., None] - logarithms).abs().argmin(-1)]
        symbols = torch.where(u.abs() < reach, 0, u.round())
        x_hat = network.synthesise(symbols * step.reshape(-1, 1, 1, 1))
        z_hat = z + torch.rand(z.shape, generator=generator) - 0.5
        scales = network.h_s(z_hat)[:, :, :4, :4] / step.reshape(-1, 1, 1, 1)
        stretched = outside(u, reach, unrounded) + of_y
        bits = gaussian_bits(stretched, scales).sum((1, 2, 3)) + network.entropy_bottleneck.bits(z_hat).sum((1, 2, 3))
        cost = bits / 64**2 + slope * 255**2 * (x_hat - x).square().mean((1, 2, 3))
    assert float(found.loss) == pytest.approx(float((step * cost).mean()), rel=1e-4)
    assert (symbols != u.round()).any()


def test_victims_in_training_have_the_zones_of_shipped_ones(network: Hyper) -> None:
    """Each crop at its own step, as that of a victim with this step alone."""
    zones = by_scale(np.full(64, 0.8, np.float32))
    steps = torch.tensor([1.0, 0.6])
    inside = _Victim(network, steps.reshape(-1, 1, 1, 1), zones)
    latents = inside.analyse(pixels_as_tensor(PICTURES[:2]))
    found = inside.quantise(latents, round_straight_through)
    for index, step in enumerate(steps.tolist()):
        alone = NetworkVictim(network, step, dead_zones=zones)
        own = latents[index : index + 1]
        assert torch.equal(found[index : index + 1], alone.quantise(own, round_straight_through))
        assert torch.equal(inside.zero_bins(latents)[1][index], alone.zero_bins(own)[1][0])
    assert torch.equal(inside.quantise(latents, unrounded), latents)
    assert (found != latents.round()).any()


def test_a_candidate_is_exported_as_its_run_is(network: Hyper, tmp_path: Path) -> None:
    """With its restraint, its recipe and its pictures."""
    (tmp_path / "pictures").mkdir()
    for seed, picture in enumerate(PICTURES[:2]):
        (tmp_path / "pictures" / f"{seed}.png").write_bytes(write_picture(Picture(pixels=picture), "PNG"))
    hardening = Hardening(method=Method.FAST, bpp_share=0.5, dead_zones=True, dither=True)
    phase = Phase(share=1.0, rate_from=1e-4, rate_to=0.0)
    recipe = Recipe(steps=8, channels=(8, 12), phases=(phase,), hardening=hardening)
    run, weights = Run(tmp_path / "run"), network.state_dict()
    settings = Settings(recipe=recipe, data=str(tmp_path / "pictures"), validation=None, parent="start", threads=1)
    run.create(settings, State(8, 1.0, weights, cpu_copy(weights), {}))
    run.keep_candidate(4, weights)
    found = export_run(run.candidate(4), tmp_path / "model", "model", "robust", None, lambda _: None).bundle
    provenance = found.manifest.provenance
    assert (provenance["steps"], provenance["recipe"]) == (4, json.loads(recipe.to_json()))
    assert provenance["restraint"] == asdict(restraint_of(hardening))

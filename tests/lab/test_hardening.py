"""The losses of hardening, term by term, against values worked out apart; and recipes that ask for them."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustcodec.errors import TrainingError
from robustcodec.lab.adversaries import Adversary, drawn, local_attack
from robustcodec.lab.checkpoints import load_weights, network_of
from robustcodec.lab.hardening import distilled_loss, fast_loss, loss_of, ma2023_loss, needs_teacher, rate_of
from robustcodec.lab.hyper import Hyper
from robustcodec.lab.losses import Batch, rate_distortion
from robustcodec.lab.recipe import Attacker, Hardening, Method, Recipe, Rounding, from_start
from robustcodec.lab.smoothness import smoothness

STEPS = (1.0, 0.5, 2.0, 1.0)
DISTILLED = Hardening(method=Method.DISTILLED, psnr_share=0.25, bpp_share=0.25)
FAST = Hardening(method=Method.FAST, bpp_share=0.5)


@pytest.fixture
def network(tiny_path: Path) -> Hyper:
    return network_of(load_weights(tiny_path), "the tiny model")


@pytest.fixture
def batch(make_sample: Callable[..., NDArray[np.uint8]]) -> Batch:
    """Four crops at three steps; straight-through rounding, so that nothing is random."""
    x = torch.stack([torch.from_numpy(make_sample(64, 64, seed)).permute(2, 0, 1) / 255 for seed in range(4)])
    step = torch.tensor(STEPS)
    return Batch(x, step, 0.013 / step**2, torch.Generator().manual_seed(1), Rounding.ROUND)


def adding(*levels: float) -> Adversary:
    """An adversary that adds one number to all of a crop."""

    def adversary(network: Hyper, batch: Batch) -> Tensor:
        return (batch.x + torch.tensor(levels).reshape(-1, 1, 1, 1)).clamp(0, 1)

    return adversary


def number(value: Tensor) -> float:
    return float(value.detach())


def coded(network: Hyper, x: Tensor) -> tuple[Tensor, Tensor]:
    """What becomes of each crop alone, rounded: pictures and bits per pixel, by the network's parts."""
    pictures, rates = [], []
    for crop, step in zip(x, STEPS, strict=True):
        with torch.no_grad():
            y = network.g_a(crop[None])
            symbols = (y / step).round()
            pictures.append(network.g_s(symbols * step))
            medians = network.entropy_bottleneck.medians()
            z_hat = (network.h_a(y.abs()) - medians).round() + medians
            scales = (network.h_s(z_hat)[:, :, : y.shape[2], : y.shape[3]] / step).clamp(min=0.11)
            tail = -symbols.double().abs()
            upper, lower = (torch.special.ndtr((tail + half) / scales) for half in (0.5, -0.5))
            bits = -(upper - lower).log2().sum() + network.entropy_bottleneck.bits(z_hat).sum()
            rates.append(bits / 64**2)
    return torch.cat(pictures), torch.stack(rates).float()


def test_stage_two_is_distortion_and_distance_from_the_teachers_rate(network: Hyper, batch: Batch) -> None:
    adversary = adding(0.05, 0.0, -0.04, 0.0)
    x_new = adversary(network, batch)
    x_hat, bpp = coded(network, x_new)
    paid = torch.tensor([0.3, 0.9, 0.1, 0.4])
    found = distilled_loss(dataclasses.replace(DISTILLED, rate=0.7), adversary, lambda *_: paid)(network, batch)
    error = (x_new - x_hat).abs().mean((1, 2, 3))
    expected = sum(float(error[i]) + STEPS[i] * 0.7 * abs(float(paid[i]) - float(bpp[i])) for i in range(4)) / 4
    assert number(found.loss) == pytest.approx(expected, rel=1e-4)
    assert number(found.figures["error"]) == pytest.approx(float(error.mean()), rel=1e-4)
    assert number(found.figures["distance"]) == pytest.approx(float((paid - bpp).abs().mean()), rel=1e-4)
    assert number(found.figures["attacked_bpp"]) == pytest.approx(float(bpp[[0, 2]].mean()), rel=1e-4)
    assert number(found.figures["bpp"]) == pytest.approx(float(bpp[[1, 3]].mean()), rel=1e-4)


def test_another_teachers_rate_changes_the_loss_by_its_share(network: Hyper, batch: Batch) -> None:
    """Far above what the student pays, a bit more from the teacher costs w_r times a bit."""

    def loss(paid: float) -> float:
        hardening = dataclasses.replace(DISTILLED, rate=0.25)
        found = distilled_loss(hardening, adding(0, 0, 0, 0), lambda *_: torch.full((4,), paid))
        return number(found(network, batch).loss)

    assert loss(53.0) - loss(50.0) == pytest.approx(3 * 0.25 * sum(STEPS) / 4, rel=1e-5)


def test_without_a_teacher_the_rate_itself_is_paid(network: Hyper, batch: Batch) -> None:
    adversary = adding(0.05, 0.0, -0.04, 0.0)
    hardening = dataclasses.replace(DISTILLED, distil=False)
    plain = loss_of(hardening, None)
    assert not needs_teacher(hardening) and needs_teacher(DISTILLED)
    assert set(plain(network, batch).figures) >= {"distance", "error"}
    found = distilled_loss(hardening, adversary, None)(network, batch)
    _, bpp = coded(network, adversary(network, batch))
    assert number(found.figures["distance"]) == pytest.approx(float(bpp.mean()), rel=1e-4)


def test_the_clean_target_is_the_clean_crop(network: Hyper, batch: Batch) -> None:
    adversary = adding(0.05, 0.0, -0.04, 0.0)
    x_hat, _ = coded(network, adversary(network, batch))
    hardening = dataclasses.replace(DISTILLED, clean_target=True, rate=0.0)
    found = distilled_loss(hardening, adversary, None)(network, batch)
    assert number(found.loss) == pytest.approx(float((batch.x - x_hat).abs().mean()), rel=1e-4)


def test_a_teacher_is_frozen_and_pays_for_clean_crops(network: Hyper, batch: Batch, tiny_path: Path) -> None:
    teacher = network_of(load_weights(tiny_path), "the tiny model")
    paid = rate_of(teacher)(network, dataclasses.replace(batch))
    _, bpp = coded(teacher, batch.x)
    assert torch.allclose(paid, bpp, rtol=1e-4)
    assert not paid.requires_grad and not any(parameter.requires_grad for parameter in teacher.parameters())
    loss_of(DISTILLED, teacher)(network, batch).loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert network.get_parameter("g_a.0.weight").grad is not None
    with pytest.raises(TrainingError, match="needs the teacher"):
        loss_of(DISTILLED, None)


@pytest.mark.parametrize("method", [Method.TEACHER, Method.DISTILLED, Method.FAST])
def test_smooth_loss_enters_with_its_weight(network: Hyper, batch: Batch, method: Method) -> None:
    """The loss with it, less the loss without it, is the weighted mean of both terms."""
    share = 0.0 if method is Method.TEACHER else 0.5
    weight = "teacher_smooth" if method is Method.TEACHER else "smooth"
    plain = Hardening(method=method, psnr_share=share)
    if method is Method.DISTILLED:
        plain = dataclasses.replace(plain, distil=False)
    smoothed = dataclasses.replace(plain, **{weight: 0.3}, smooth_bpp=0.5, smooth_latents=2.0)

    def at_the_start() -> Batch:
        batch.generator.manual_seed(1)
        return batch

    before = loss_of(plain, None)(network, at_the_start())
    after = loss_of(smoothed, None)(network, at_the_start())
    difference = number(after.loss - before.loss)
    at_the_start()
    x = batch.x
    if method is not Method.TEACHER:
        from robustcodec.lab.adversaries import adversary_of

        x = adversary_of(plain)(network, batch)
    terms = smoothness(network, dataclasses.replace(batch, x=x))
    expected = 0.3 * (batch.step * (0.5 * terms.bpp + 2.0 * terms.latents)).mean()
    assert difference == pytest.approx(number(expected), rel=2e-3)
    after.loss.backward()
    gradient = network.get_parameter("g_a.0.weight").grad
    assert gradient is not None and torch.isfinite(gradient).all() and gradient.norm() > 0


def test_without_a_weight_stage_one_is_the_plain_loss(network: Hyper, batch: Batch) -> None:
    found = loss_of(Hardening(method=Method.TEACHER), None)(network, batch)
    assert torch.equal(found.loss, rate_distortion(network, batch).loss)
    assert loss_of(None, None) is rate_distortion


def test_plain_adversarial_training_takes_attacked_crops_as_targets(network: Hyper, batch: Batch) -> None:
    adversary = adding(0.05, 0.02, -0.04, 0.03)
    x_new = adversary(network, batch)
    x_hat, bpp = coded(network, x_new)
    cost = bpp + 0.013 / batch.step**2 * 65025 * (x_hat - x_new).square().mean((1, 2, 3))
    found = ma2023_loss(adversary)(network, batch)
    assert number(found.loss) == pytest.approx(float((cost * batch.step).mean()), rel=1e-4)


def test_ours_weighs_attacked_crops_and_aims_at_clean_ones(network: Hyper, batch: Batch) -> None:
    adversary = adding(0.05, 0.0, -0.04, 0.0)
    x_hat, bpp = coded(network, adversary(network, batch))
    slope = 0.013 / batch.step**2 * 65025
    cost = bpp + slope * (x_hat - batch.x).square().mean((1, 2, 3))
    weight = torch.tensor([0.3, 1.0, 0.3, 1.0])
    hardening = dataclasses.replace(FAST, attacked=0.3)
    found = fast_loss(hardening, adversary)(network, batch)
    assert number(found.loss) == pytest.approx(float((batch.step * weight * cost).mean()), rel=1e-4)

    with torch.no_grad():
        decoded, clean = (network.g_s(network.g_a(x)) for x in (adversary(network, batch), batch.x))
    apart = slope * (decoded - clean).square().mean((1, 2, 3))
    stable = fast_loss(dataclasses.replace(hardening, stability=2.0), adversary)(network, batch)
    expected = float((batch.step * (weight * cost + 2 * apart)).mean())
    assert number(stable.loss) == pytest.approx(expected, rel=1e-4)
    assert apart[0] > 0 and apart[1] == 0


def test_cuts_are_paid_for_by_area_and_budget(network: Hyper, batch: Batch) -> None:
    hardening = dataclasses.replace(FAST, local_share=0.75, local_steps=2, local=1.2)

    def fresh() -> Batch:
        return dataclasses.replace(batch, generator=torch.Generator().manual_seed(2))

    without = fast_loss(FAST, adding(0, 0, 0, 0))(network, fresh())
    found = fast_loss(hardening, adding(0, 0, 0, 0))(network, fresh())
    cuts = local_attack(network, fresh(), hardening)
    expected = 0.0
    for index in range(3):
        with torch.no_grad():
            quantise = drawn(cuts.rounding[index : index + 1])
            one = network(cuts.noisy[index : index + 1], cuts.step[index : index + 1], quantise, quantise)
        mse = float((one.x_hat - cuts.clean[index]).square().mean())
        cost = number(one.bits) / 32**2 + 0.013 / float(cuts.step[index]) ** 2 * 65025 * mse
        expected += float(cuts.step[index]) * 1.2 / float(cuts.budget[index]) * cost / 4 / 4
    assert number(found.loss) - number(without.loss) == pytest.approx(expected, rel=1e-3)
    assert number(found.figures["local_gain"]) > 0


def test_training_on_attacked_crops_lowers_what_attacks_reach(network: Hyper, batch: Batch) -> None:
    """Thirty steps of ours on one batch: the rate under the attack falls."""
    loss = loss_of(dataclasses.replace(FAST, bpp_share=1.0, least=1.0), None)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    rates = []
    for _ in range(30):
        optimiser.zero_grad()
        terms = loss(network, batch)
        terms.loss.backward()
        optimiser.step()
        rates.append(number(terms.figures["attacked_bpp"]))
    assert math.isfinite(rates[-1]) and rates[-1] < 0.9 * rates[0]


@pytest.mark.parametrize("hardening", [DISTILLED, FAST, Hardening(method=Method.TEACHER, teacher_smooth=0.1)])
def test_hardening_survives_json(hardening: Hardening) -> None:
    recipe = dataclasses.replace(from_start(10), hardening=hardening)
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe
    assert again.hardening is not None and isinstance(again.hardening.attacker, Attacker)


def test_recipes_from_before_hardening_are_read() -> None:
    document = json.loads(from_start(10).to_json())
    del document["hardening"]
    assert Recipe.from_json(json.dumps(document)).hardening is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "magic"}, "method is 'magic'; it can be teacher, distilled, ma2023, fast"),
        ({"method": "fast"}, "attacks crops; set psnr_share or bpp_share above 0"),
        ({"method": "fast", "bpp_share": 0.5, "distil": False}, "by fast does not use distil"),
        ({"method": "teacher", "psnr_share": 0.5}, "by teacher does not use psnr_share"),
        ({"method": "ma2023", "psnr_share": 1.0, "smooth": 0.1}, "by ma2023 does not use smooth"),
        ({"method": "fast", "psnr_share": 0.7, "bpp_share": 0.7}, "psnr_share [+] bpp_share must lie between"),
        ({"method": "fast", "psnr_share": 0.7, "epsilon": 0.0}, "epsilon must lie between"),
        ({"method": "fast", "psnr_share": 0.7, "psnr_steps": 0}, "psnr_steps must lie between"),
        ({"method": "fast", "psnr_share": 0.7, "local_most": 3.0}, "local_most must lie between"),
        ({"method": "fast", "psnr_share": 0.7, "gain_quantile": 1.5}, "gain_quantile must lie between"),
        ({"method": "ma2023", "psnr_share": 1.0, "local_share": 0.1}, "by ma2023 does not use local_share"),
        ({"method": "fast", "psnr_share": 0.7, "attacked": float("nan")}, "attacked must lie between"),
        ({}, "incomplete"),
    ],
)
def test_wrong_hardening_is_refused_by_name(change: dict[str, object], message: str) -> None:
    document = {**json.loads(from_start(10).to_json()), "hardening": change}
    with pytest.raises(TrainingError, match=message):
        Recipe.from_json(json.dumps(document))


def test_crops_are_shared_out_as_the_paper_does() -> None:
    third = Hardening(method=Method.DISTILLED, psnr_share=1 / 3, bpp_share=1 / 3)
    assert third.attacks(3) == (1, 1)
    assert dataclasses.replace(third, psnr_share=0.5, bpp_share=0.5).attacks(3) == (2, 1)

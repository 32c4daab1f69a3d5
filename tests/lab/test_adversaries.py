"""The cheap adversary: inside its budget, better than noise, the same for the same generator, and without traces."""

import dataclasses
from pathlib import Path

import pytest
import torch
from regenerate import sample
from torch import Tensor

from robustcodec.errors import TrainingError
from robustcodec.lab.adversaries import Draws, Objective, adversary_of, distortion, local_attack, normalised_steps, rate
from robustcodec.lab.checkpoints import load_weights, network_of
from robustcodec.lab.data import Pool
from robustcodec.lab.hyper import Hyper
from robustcodec.lab.losses import Batch, Part
from robustcodec.lab.recipe import Attacker, Hardening, Method, Phase, Recipe, Rounding
from robustcodec.lab.training import draw_batch

EPSILON = 5e-4


@pytest.fixture
def network(tiny_path: Path) -> Hyper:
    """The tiny trained model."""
    return network_of(load_weights(tiny_path), "the tiny model")


def batch(count: int = 8, seed: int = 3) -> Batch:
    """Crops that reach both ends of the range, where clipping matters."""
    random = torch.Generator().manual_seed(0)
    x = (torch.rand(count, 3, 64, 64, generator=random) * 1.5 - 0.25).clamp(0, 1)
    step = torch.linspace(0.5, 2, count)
    return Batch(x, step, 0.013 / step**2, torch.Generator().manual_seed(seed), Rounding.NOISE)


def draws(seed: int, steps: int) -> Draws:
    """What is random in an attack on such a batch."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(8, 3, 64, 64, generator=generator)
    return Draws(start, torch.rand(steps, 8, 192, 4, 4, generator=generator) - 0.5)


HARDENING = Hardening(method=Method.FAST, psnr_share=0.25, bpp_share=0.5, epsilon=EPSILON)


@pytest.mark.parametrize("objective", [distortion, rate])
def test_an_attack_raises_its_objective_above_clean_and_above_noise(network: Hyper, objective: Objective) -> None:
    clean = batch()
    energy = torch.full((8,), EPSILON)
    noisy = normalised_steps(network, clean.x, clean.step, objective, energy, draws(1, 4))
    noise = torch.randn(clean.x.shape, generator=torch.Generator().manual_seed(2)) * EPSILON**0.5
    (rounding,) = draws(3, 1).rounding
    with torch.no_grad():
        before, after, random = (
            objective(network, x, clean.x, clean.step, rounding)
            for x in (clean.x, noisy, (clean.x + noise).clamp(0, 1))
        )
    assert (after > before).all() and (after > random).all()
    more = normalised_steps(network, clean.x, clean.step, objective, energy, draws(1, 16))
    assert objective(network, more, clean.x, clean.step, rounding).mean() > after.mean()


def test_every_crop_keeps_its_budget(network: Hyper) -> None:
    clean = batch()
    energy = torch.linspace(1e-5, EPSILON, 8)
    noisy = normalised_steps(network, clean.x, clean.step, distortion, energy, draws(1, 3))
    spent = (noisy - clean.x).double().square().mean((1, 2, 3))
    assert (spent <= energy * (1 + 1e-5)).all()
    assert (spent > energy * 0.5).all()
    assert noisy.min() >= 0 and noisy.max() <= 1


def test_shares_of_the_batch_are_attacked_within_the_drawn_budgets(network: Hyper) -> None:
    clean = batch()
    x_new = adversary_of(HARDENING)(network, clean)
    spent = (x_new - clean.x).double().square().mean((1, 2, 3))
    attacked = spent > 0
    assert attacked.sum() == 6
    assert (spent[attacked] <= EPSILON * (1 + 1e-5)).all()
    assert spent[attacked].min() < 0.9 * EPSILON  # magnitudes differ
    assert torch.equal(x_new[~attacked], clean.x[~attacked])


def test_whole_budgets_are_used_if_none_is_drawn(network: Hyper) -> None:
    x = torch.full((2, 3, 64, 64), 0.5)
    clean = Batch(x, torch.ones(2), torch.ones(2), torch.Generator().manual_seed(0), Rounding.NOISE)
    hardening = Hardening(method=Method.MA2023, psnr_share=1.0, least=1.0)
    spent = (adversary_of(hardening)(network, clean) - x).square().mean((1, 2, 3))
    assert torch.allclose(spent, torch.full((2,), EPSILON), rtol=1e-4)


def test_any_position_can_be_attacked(network: Hyper) -> None:
    """Qualities go by position, so attacks must not."""
    hardening = Hardening(method=Method.FAST, psnr_share=0.25, psnr_steps=1)
    hits = torch.zeros(4)
    for seed in range(12):
        clean = batch(4, seed)
        hits += (adversary_of(hardening)(network, clean) != clean.x).flatten(1).any(1)
    assert (hits > 0).all() and hits.sum() == 12


@pytest.mark.parametrize(("attacker", "steps"), [(Attacker.PAPER, 20), (Attacker.MA2023, 20), (Attacker.CROSSING, 2)])
def test_whole_attacks_can_be_trained_on(network: Hyper, attacker: Attacker, steps: int) -> None:
    """They gain more from the real codec, which rounds, than noise of their energy does."""
    pictures = torch.stack([torch.from_numpy(sample(64, 64, seed)) for seed in range(8)])
    clean = dataclasses.replace(batch(), x=pictures.permute(0, 3, 1, 2).float() / 255)
    noise = torch.randn(clean.x.shape, generator=torch.Generator().manual_seed(2)) * EPSILON**0.5
    both = Hardening(
        method=Method.DISTILLED,
        psnr_share=0.5,
        bpp_share=0.5,
        psnr_steps=steps,
        bpp_steps=steps,
        least=1.0,
        attacker=attacker,
        epsilon=EPSILON,
    )
    x_new = adversary_of(both)(network, clean)
    spent = (x_new - clean.x).double().square().mean((1, 2, 3))
    assert ((spent > 0) & (spent <= EPSILON * (1 + 1e-4))).all() and x_new.min() >= 0 and x_new.max() <= 1
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(adversary_of(both)(network, dataclasses.replace(clean, generator=batch().generator)), x_new)
    for shares, figure in (({"psnr_share": 1.0}, 0), ({"bpp_share": 1.0, "psnr_share": 0.0}, 1)):
        alone = dataclasses.replace(both, **{"bpp_share": 0.0, **shares})
        attacked = adversary_of(alone)(network, clean)
        before, after, random = (
            rounded(network, x, clean)[figure] for x in (clean.x, attacked, (clean.x + noise).clamp(0, 1))
        )
        assert after.mean() > random.mean() and (after > before).all()


@pytest.mark.parametrize(("attacker", "rounds"), [(Attacker.NORMALISED, 3), (Attacker.MA2023, 0)])
def test_only_steps_along_gradients_draw_what_stands_for_rounding(
    network: Hyper, attacker: Attacker, rounds: int
) -> None:
    """What an attack takes of the generator, in its order; what a search would draw is large, and for nothing."""
    hardening = Hardening(method=Method.MA2023, psnr_share=0.5, psnr_steps=3, least=1.0, attacker=attacker)
    given = batch()
    adversary_of(hardening)(network, given)
    expected = batch().generator
    for draw, shape in (
        (torch.rand, (8,)),
        (torch.rand, (4,)),
        (torch.randn, (4, 3, 64, 64)),
        (torch.rand, (rounds, 4, 12, 4, 4)),
    ):
        draw(shape, generator=expected)
    assert torch.equal(given.generator.get_state(), expected.get_state())


def rounded(network: Hyper, x: Tensor, clean: Batch) -> tuple[Tensor, Tensor]:
    """MSE to the clean crops and bits of each crop, from rounded latents."""
    with torch.no_grad():
        coded = network(x, clean.step, torch.round, torch.round)
    return (coded.x_hat.clamp(0, 1) - clean.x).square().mean((1, 2, 3)), coded.bits


def test_the_budget_rises_with_the_steps_of_a_run(network: Hyper) -> None:
    hardening = Hardening(method=Method.MA2023, psnr_share=1.0, least=1.0, ramp=100, attacker=Attacker.MA2023)
    assert [hardening.strength(step) for step in (1, 50, 100, 2000)] == [0.01, 0.5, 1.0, 1.0]
    assert dataclasses.replace(hardening, ramp=0).strength(1) == 1.0
    recipe = Recipe(steps=200, phases=(Phase(share=1.0, rate_from=0, rate_to=0, crop=64),), hardening=hardening)
    pool = Pool.of([sample(80, 80, 1)], 64, torch.device("cpu"))
    drawn = draw_batch(recipe, recipe.phases[0], 25, pool, torch.device("cpu"))
    assert drawn.strength == 0.25
    spent = (adversary_of(hardening)(network, drawn) - drawn.x).double().square().mean((1, 2, 3))
    assert ((spent > 0) & (spent < 0.25 * EPSILON * (1 + 1e-4))).all() and spent.max() > 0.1 * EPSILON


@pytest.mark.parametrize("attacker", [Attacker.PAPER, Attacker.MA2023, Attacker.CROSSING])
def test_whole_attacks_have_one_budget(attacker: Attacker) -> None:
    with pytest.raises(TrainingError, match="set least to 1"):
        Hardening(method=Method.FAST, psnr_share=0.5, attacker=attacker)


def test_cuts_are_the_middles_of_crops_with_larger_budgets(network: Hyper) -> None:
    hardening = dataclasses.replace(HARDENING, local_share=0.5, local_steps=3, local_most=20.0)
    given = batch()
    cuts = local_attack(network, given, hardening)
    middles = given.x[:, :, 16:48, 16:48]
    at = [(middles == clean).flatten(1).all(1).nonzero().item() for clean in cuts.clean]
    assert len(set(at)) == 4
    assert torch.equal(cuts.step, given.step[at]) and torch.equal(cuts.lagrangian, given.lagrangian[at])
    spent = (cuts.noisy - cuts.clean).double().square().mean((1, 2, 3))
    assert (spent <= cuts.budget * EPSILON * (1 + 1e-5)).all() and (spent > cuts.budget * EPSILON * 0.3).all()
    assert (cuts.budget >= 4).all() and (cuts.budget <= 20).all() and cuts.budget.unique().numel() == 4
    before = network.synthesise(network.analyse(cuts.clean))
    after = network.synthesise(network.analyse(cuts.noisy))
    random = torch.randn(cuts.clean.shape, generator=torch.Generator().manual_seed(1))
    radius = spent.sqrt().float()[:, None, None, None]
    noise = network.synthesise(network.analyse((cuts.clean + random * radius).clamp(0, 1)))
    reached, clean, control = (
        (each.float().clamp(0, 1) - cuts.clean).square().mean((1, 2, 3)) for each in (after, before, noise)
    )
    assert (reached > clean).all() and reached.mean() > control.mean()


def test_parts_of_a_batch_cut_what_the_whole_does(network: Hyper) -> None:
    hardening = dataclasses.replace(HARDENING, local_share=0.5, local_steps=2)
    whole = local_attack(network, batch(), hardening)
    parts = []
    for index in range(4):  # some may have no cut at all
        part, given = Part(index, 4), batch()
        mine = dataclasses.replace(
            given, x=part.of(given.x), step=part.of(given.step), lagrangian=part.of(given.lagrangian), part=part
        )
        parts.append(local_attack(network, mine, hardening))
    assert sorted(torch.cat([part.budget for part in parts]).tolist()) == sorted(whole.budget.tolist())
    found = torch.cat([part.noisy for part in parts])
    for budget, noisy in zip(whole.budget, whole.noisy, strict=True):
        (at,) = (torch.cat([part.budget for part in parts]) == budget).nonzero().flatten().tolist()
        assert torch.allclose(found[at], noisy, atol=1e-5)


def test_the_generator_alone_decides(network: Hyper) -> None:
    adversary = adversary_of(HARDENING)
    one, again, other = (adversary(network, batch(seed=seed)) for seed in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_it_leaves_no_trace_in_the_network(network: Hyper) -> None:
    network.get_parameter("g_s.0.weight").requires_grad_(False)
    (network.get_parameter("g_a.0.weight") ** 2).sum().backward()
    wanted = [parameter.requires_grad for parameter in network.parameters()]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    adversary_of(HARDENING)(network, batch())
    assert [parameter.requires_grad for parameter in network.parameters()] == wanted
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        assert (parameter.grad is None) is (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)  # type: ignore[arg-type]


@pytest.mark.parametrize("objective", [distortion, rate])
def test_in_bfloat16_an_attack_is_about_as_strong(objective: Objective, network: Hyper) -> None:
    given = batch()
    energy, (rounding,) = torch.full((len(given.x),), 5e-4), draws(3, 1).rounding

    def raised(*, cast: bool) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            noisy = normalised_steps(network, given.x, given.step, objective, energy, draws(1, 4))
        assert noisy.dtype == torch.float32
        before, after = (objective(network, x, given.x, given.step, rounding) for x in (given.x, noisy))
        return (after - before).mean().detach()

    assert float(raised(cast=True)) == pytest.approx(float(raised(cast=False)), rel=0.1)

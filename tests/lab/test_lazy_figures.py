"""What a search computes to be fast changes nothing: figures only where they are needed, large batches in parts."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from robustcodec.bundle import Bundle
from robustcodec.lab.attacks import METHODS, Attack, Target, Threat, switching
from robustcodec.lab.attacks.problem import Problem, Watch
from robustcodec.lab.attacks.victim import NetworkVictim, code, unrounded
from robustcodec.lab.checkpoints import network_of, weights_of_bundle
from robustcodec.lab.networks import Quantiser

STEPS = 24


class Counting(NetworkVictim):
    """Counts how often each half is asked for."""

    pictures = 0
    rates = 0

    def synthesise(self, symbols: Tensor, height: int, width: int) -> Tensor:
        self.pictures += 1
        return super().synthesise(symbols, height, width)

    def bits(self, latents: Tensor, symbols: Tensor, quantise: Quantiser) -> Tensor:
        self.rates += 1
        return super().bits(latents, symbols, quantise)


def problem_of(bundle: Bundle, threat: Threat, pictures: int) -> tuple[Problem, Counting]:
    victim = Counting(network_of(weights_of_bundle(bundle), bundle.id), 0.5)
    x = torch.rand(pictures, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        clean = code(victim, x, x)
    generator = torch.Generator().manual_seed(2)
    return Problem(victim, victim, x, threat, 5e-4, clean, generator), victim


def everything(first: Tensor, one: Callable[[], Tensor], other: Callable[[], Tensor]) -> Tensor:
    return torch.where(first, one(), other())


@pytest.mark.parametrize("pictures", [1, 3])
@pytest.mark.parametrize("threat", [Threat(target, bounded) for target in Target for bounded in (True, False)], ids=str)
@pytest.mark.parametrize("method", ["paper", "ma2023"])
def test_what_is_left_out_changes_nothing(
    method: str, threat: Threat, pictures: int, tiny: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> Tensor:
        attack = Attack(threat=threat, method=method, steps=STEPS)
        return METHODS[method](attack).search(problem_of(tiny, threat, pictures)[0], lambda step, score: None)

    lean = found()
    monkeypatch.setattr(switching, "switch", everything)
    assert torch.equal(lean, found())


@pytest.mark.parametrize("method", ["paper", "strong"])
def test_latents_that_are_there_are_those_of_the_noise(method: str, tiny: Bundle) -> None:
    """A guide that is not the victim itself leaves the victim to analyse what is found."""
    attack = Attack(threat=Threat(Target.BPP), method=method, steps=STEPS)
    found = []
    for guided in (False, True):
        problem, victim = problem_of(tiny, attack.threat, 3)
        problem = replace(problem, guide=Counting(victim.network, victim.step)) if guided else problem
        found.append(METHODS[method](attack).search(problem, lambda step, score: None))
    assert torch.equal(*found)


def test_steps_that_offer_nothing_leave_the_best_alone(tiny: Bundle) -> None:
    """What breaks its bound is worth more than the clean picture, which is what nothing would be."""
    problem, _ = problem_of(tiny, Threat(Target.PSNR), 2)
    watch = Watch(problem, unrounded)
    noise = 0.3 * problem.random_direction()
    watch.offer(noise, problem.sketch(noise, unrounded), allowed=torch.tensor([True, False]))
    watch.settle()
    kept = watch.best.noise
    assert watch.best.excess[0] > 0
    assert torch.equal(kept[0], noise[0])
    for _ in range(2):
        assert not watch.settle().any()
        assert torch.equal(watch.best.noise, kept)


def test_what_scores_no_more_than_one_within_the_bound_is_not_looked_at(tiny: Bundle) -> None:
    problem, victim = problem_of(tiny, Threat(Target.PSNR), 2)
    watch = Watch(problem, unrounded)
    noise = 1e-4 * problem.random_direction()
    watch.offer(noise, problem.sketch(noise, unrounded))
    asked = victim.rates
    watch.offer(noise, problem.sketch(noise, unrounded))
    assert victim.rates == asked
    watch.settle()
    assert torch.equal(watch.best.noise, noise)


def test_on_the_rate_only_smaller_files_mend_what_breaks_the_bound(tiny: Bundle) -> None:
    problem, _ = problem_of(tiny, Threat(Target.BPP), 2)
    watch = Watch(problem, unrounded)
    assert watch.worth_a_look(problem.clean.bpp).all()
    noise = 3.0 * problem.random_direction()
    watch.offer(noise, problem.sketch(noise, unrounded), allowed=torch.tensor([True, False]))
    assert watch.window.excess[0] > 0
    score = watch.window.score[0].repeat(2)
    assert watch.worth_a_look(1.1 * score).tolist() == [False, True]
    assert watch.worth_a_look(0.9 * score).tolist() == [True, True]
    watch.offer(torch.zeros_like(noise), problem.sketch(torch.zeros_like(noise), unrounded))
    assert watch.worth_a_look(1.1 * score).all()


def test_figures_are_computed_when_they_are_asked_for(tiny: Bundle) -> None:
    problem, victim = problem_of(tiny, Threat(Target.PSNR), 1)
    figures = problem.code(torch.zeros_like(problem.x), torch.round)
    assert (victim.pictures, victim.rates) == (0, 0)
    assert figures.mse is figures.mse
    assert (victim.pictures, victim.rates) == (1, 0)
    assert figures.bpp is figures.bpp
    assert (victim.pictures, victim.rates) == (1, 1)


def test_steps_outside_the_budget_make_no_picture(tiny: Bundle) -> None:
    """On PSNR they mend the rate; the other attacks, which keep to the budget or to no bound, need one figure."""
    for method, most in (("paper", 0.8 * STEPS), ("ma2023", STEPS), ("pgd", STEPS + 1)):
        problem, victim = problem_of(tiny, Threat(Target.PSNR, bounded=method == "paper"), 1)
        METHODS[method](Attack(threat=problem.threat, method=method, steps=STEPS)).search(problem, lambda *_: None)
        assert victim.pictures <= most + 2, method
        assert (victim.rates == 0) == (method != "paper")


def test_batches_are_coded_in_parts_of_some_pixels(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, whole = problem_of(tiny, Threat(Target.PSNR), 5)
    x = problem.x[:, :, :30].requires_grad_()  # padded to 32 rows for the analysis
    sizes = []
    analyse = whole.network.analyse

    def noted(part: Tensor) -> Tensor:
        sizes.append(part.shape[0])
        return analyse(part)

    monkeypatch.setattr(whole.network, "analyse", noted)

    def result() -> tuple[Tensor, Tensor]:
        figures = code(whole, x, x.detach(), unrounded)
        (gradient,) = torch.autograd.grad((figures.bpp + figures.mse).sum(), x)
        return figures.x_hat.detach(), gradient

    at_once = result()
    monkeypatch.setattr("robustcodec.lab.attacks.victim._PART_PIXELS", 2 * 32 * 48)
    for part, together in zip(result(), at_once, strict=True):
        torch.testing.assert_close(part, together, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr("robustcodec.lab.attacks.victim._PART_PIXELS", 1)
    result()
    assert sizes == [5, 2, 2, 1, 1, 1, 1, 1, 1]

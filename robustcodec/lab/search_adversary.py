"""Whole attacks as adversaries inside training, on a network that still changes: the paper's, Ma2023's, crossings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from robustcodec.lab.adversaries import Attack, Draws, Objective, distortion, frozen
from robustcodec.lab.attacks.crossing import cross
from robustcodec.lab.attacks.methods import Method
from robustcodec.lab.attacks.problem import Best, Problem, Report
from robustcodec.lab.attacks.switching import Ma2023, Paper
from robustcodec.lab.attacks.threat import Target, Threat
from robustcodec.lab.attacks.victim import Rough, code, within_zones
from robustcodec.lab.networks import DeadZones, Network, Quantiser
from robustcodec.lab.recipe import Attacker


@dataclass(frozen=True, eq=False)
class _Victim:
    """The network in training, each crop at its own step (B, 1, 1, 1)."""

    network: Network
    step: Tensor
    dead_zones: DeadZones | None

    def analyse(self, x: Tensor) -> Tensor:
        """Give the latents in units of their step."""
        return self.network.analyse(x) / self.step

    def quantise(self, latents: Tensor, quantise: Quantiser) -> Tensor:
        """Quantise in units of the step."""
        return within_zones(self.network, latents, self.step, quantise, self.dead_zones)

    def zero_bins(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Give the zones, or what rounds to zero."""
        return self.network.zero_bins(latents, self.step, self.dead_zones)

    def synthesise(self, symbols: Tensor, height: int, width: int) -> Tensor:
        """Give the pictures; crops are of whole latents."""
        return self.network.synthesise(symbols * self.step)

    def bits(self, latents: Tensor, symbols: Tensor, quantise: Quantiser) -> Tensor:
        """Give the code lengths, of each symbol at most what an escape code takes."""
        return self.network.bits_in_file(latents * self.step, symbols, self.step, quantise)


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """The part of `strong` that no gradient finds, from the clean crops: `rounds` choices of thresholds to cross."""

    rounds: int

    def search(self, problem: Problem, report: Report) -> Tensor:
        """Give the best noise (B, 3, H, W) of all rounds."""
        best = Best.none(problem.x)
        cross(problem, torch.zeros_like(problem.x), best, self.rounds, report)
        return best.noise


_METHODS: Mapping[Attacker, Callable[[int], Method]] = MappingProxyType(
    {
        Attacker.PAPER: lambda steps: Paper(steps=steps),
        Attacker.MA2023: lambda steps: Ma2023(steps=steps),
        Attacker.CROSSING: lambda steps: Crossing(rounds=steps),
    }
)


def search_attack(attacker: Attacker, steps: int, dead_zones: DeadZones | None) -> Attack:
    """Give one of these attacks, of so many steps, in the form of `normalised_steps`.

    All crops have the largest budget of `energy`. Of the draws it takes a seed, that of the first crop, and none for
    rounding: several processes find other noise than one with the whole batch.
    """
    method = _METHODS[attacker](steps)

    def attack(
        network: Network,
        x: Tensor,
        step: Tensor,
        objective: Objective,
        energy: Tensor,
        draws: Draws,
    ) -> Tensor:
        target = Target.PSNR if objective is distortion else Target.BPP
        seed = abs(int(draws.start[0, 0, 0, 0].view(torch.int32)))
        victim = _Victim(network, step.reshape(-1, 1, 1, 1), dead_zones)
        guide = Rough(victim) if torch.is_autocast_enabled(x.device.type) else victim
        with frozen(network), torch.autocast(x.device.type, enabled=False):
            with torch.no_grad():
                clean = code(victim, x, x)
            # a crop to learn from need not keep the other figure where it was
            threat = Threat(target, bounded=False)
            generator = torch.Generator().manual_seed(seed)
            problem = Problem(victim, guide, x, threat, float(energy.max()), clean, generator)
            noise = method.search(problem, lambda *_: None)
        return (x + noise).clamp(0, 1)

    return attack

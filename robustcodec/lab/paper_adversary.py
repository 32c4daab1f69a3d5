"""The paper's attacks (equations 6 and 7) as an adversary inside training, on networks that are still changing."""

from dataclasses import dataclass

import torch
from torch import Tensor

from robustcodec.lab.adversaries import Objective, distortion, frozen
from robustcodec.lab.attacks.problem import Problem
from robustcodec.lab.attacks.switching import Paper
from robustcodec.lab.attacks.threat import Target, Threat
from robustcodec.lab.attacks.victim import code
from robustcodec.lab.entropy_models import escaped
from robustcodec.lab.networks import Hyper, Quantiser


@dataclass(frozen=True, eq=False)
class _Victim:
    """The network in training, each crop at its own step (B, 1, 1, 1)."""

    network: Hyper
    step: Tensor

    def analyse(self, x: Tensor) -> Tensor:
        """Give the latents in units of their step."""
        return self.network.analyse(x) / self.step

    def synthesise(self, symbols: Tensor, height: int, width: int) -> Tensor:
        """Give the pictures; crops are of whole latents."""
        return self.network.synthesise(symbols * self.step)

    def bits(self, latents: Tensor, symbols: Tensor, quantise: Quantiser) -> Tensor:
        """Give the code lengths, of each symbol at most what an escape code takes."""
        y_bits, z_bits = self.network.bits_of_each(latents * self.step, symbols, self.step, quantise)
        return escaped(y_bits, symbols).sum((1, 2, 3)) + escaped(z_bits, torch.ones(())).sum((1, 2, 3))


def paper_attack(
    network: Hyper,
    x: Tensor,
    step: Tensor,
    objective: Objective,
    energy: Tensor,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Attack crops as the paper does, within one budget, the largest of `energy`; see `normalised_steps`."""
    target = Target.PSNR if objective is distortion else Target.BPP
    seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
    with frozen(network), torch.autocast(x.device.type, enabled=False):
        victim = _Victim(network, step.reshape(-1, 1, 1, 1))
        with torch.no_grad():
            clean = code(victim, x, x)
        problem = Problem(victim, x, Threat(target), float(energy.max()), clean, torch.Generator().manual_seed(seed))
        noise = Paper(steps=steps).search(problem, lambda *_: None)
    return (x + noise).clamp(0, 1)

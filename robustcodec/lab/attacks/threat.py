"""What an attacker wants and what it must leave alone: the four threat models, and an attack as one value."""

from dataclasses import dataclass
from enum import StrEnum

from robustcodec.lab.precision import Precision

DEFAULT_EPSILON = 5e-4
"""The paper's budget: mean of n^2 over all samples of the noise, pictures in [0, 1] (33.0 dB)."""

BPP_BAND = 0.05
"""A bounded attack on PSNR keeps the file within this share of its clean size."""

PSNR_BAND = 1.0
"""A bounded attack on the rate keeps PSNR(x, x_hat*) within so many dB of clean."""


class Target(StrEnum):
    """What is attacked."""

    PSNR = "psnr"
    """Maximise MSE(x, x_hat*), paper equation 6."""
    BPP = "bpp"
    """Maximise the file's size, paper equation 7."""


@dataclass(frozen=True)
class Threat:
    """A threat model: what is attacked, and whether the other figure has to stay where it was (the paper's intent).

    Strengths are compared only within one threat model.
    """

    target: Target
    bounded: bool = True

    def holds(self, clean_bpp: float, clean_psnr: float, bpp: float, psnr: float) -> bool:
        """Whether attacked figures respect the bound; PSNRs in dB against the clean picture."""
        if not self.bounded:
            return True
        if self.target is Target.PSNR:
            return abs(bpp - clean_bpp) <= BPP_BAND * clean_bpp
        return clean_psnr == psnr or abs(psnr - clean_psnr) <= PSNR_BAND

    def harms(self, clean_bpp: float, clean_psnr: float, bpp: float, psnr: float) -> bool:
        """Whether attacked figures are worse than clean ones in what is attacked."""
        return psnr < clean_psnr if self.target is Target.PSNR else bpp > clean_bpp

    def __str__(self) -> str:
        return self.target if self.bounded else f"{self.target}-free"


@dataclass(frozen=True, kw_only=True)
class Attack:
    """An attack as it is asked for: with one seed and one batch of pictures its result is always the same."""

    threat: Threat
    method: str = "paper"
    epsilon: float = DEFAULT_EPSILON
    steps: int = 200
    seed: int = 0
    restarts: int = 1
    precision: Precision = Precision.FLOAT32

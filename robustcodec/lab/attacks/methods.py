"""Every attack by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from torch import Tensor

from robustcodec.lab.attacks.controls import Noise, Offset
from robustcodec.lab.attacks.problem import Problem, Report
from robustcodec.lab.attacks.projected import Norm, Projected
from robustcodec.lab.attacks.queries import Simba
from robustcodec.lab.attacks.strong import Strong
from robustcodec.lab.attacks.switching import Ma2023, Paper
from robustcodec.lab.attacks.threat import Attack


class Method(Protocol):
    """A search for noise."""

    def search(self, problem: Problem, report: Report) -> Tensor:
        """Give noise (B, 3, H, W) for a batch; each picture's energy should be within the budget."""


class Counted(Method, Protocol):
    """A search that says how many steps it takes from a start."""

    @property
    def steps(self) -> int:
        """Their number."""


def _ifgsm(attack: Attack) -> Counted:
    return Projected(steps=attack.steps, norm=Norm.LINF, stride=1 / attack.steps, random_start=False)


METHODS: Mapping[str, Callable[[Attack], Counted]] = MappingProxyType(
    {
        "paper": lambda attack: Paper(steps=attack.steps),
        "ma2023": lambda attack: Ma2023(steps=attack.steps),
        "fgsm": lambda attack: Projected(steps=1, norm=Norm.LINF, stride=1.0, random_start=False),
        "ifgsm": _ifgsm,
        "pgd": lambda attack: Projected(steps=attack.steps),
        "pgd-linf": lambda attack: Projected(steps=attack.steps, norm=Norm.LINF),
        "simba": lambda attack: Simba(steps=attack.steps),
        "strong": lambda attack: Strong(steps=attack.steps, restarts=attack.restarts),
        "noise": lambda attack: Noise(),
        "noise-uniform": lambda attack: Noise(uniform=True),
        "offset": lambda attack: Offset(),
    }
)


def steps_taken(attack: Attack) -> int:
    """Say how many steps an attack takes: one, whatever was asked for, if its method knows no more."""
    return METHODS[attack.method](attack).steps

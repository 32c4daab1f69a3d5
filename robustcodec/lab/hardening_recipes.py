"""The recipes of hardening as values: the paper's two stages, ours, and the baseline of plain adversarial training."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustcodec.errors import TrainingError, UsageError
from robustcodec.lab.architectures import adapted
from robustcodec.lab.precision import Precision
from robustcodec.lab.recipe import Attacker, Hardening, Method, Phase, Recipe, Rounding

TEACHER_SMOOTH = 2e-3
"""Weight of smooth_loss in stage I: at this `hyper-base` begins with a penalty of 3 % of its J."""

SMOOTH = TEACHER_SMOOTH / 47
"""The same in stage II, whose loss is in units of a mean absolute error (see `hardening`)."""

FAST = Hardening(
    method=Method.FAST,
    least=0.5,
    psnr_share=0.125,
    psnr_steps=2,
    bpp_share=0.375,
    bpp_steps=2,
    local_share=0.5,
    gain_quantile=0.6,
    dead_zones=True,
    dither=True,
    attacked_share=0.1,
)
"""What `fast` hardens against; `benchmarks/hardening.py` holds it against other ideas."""

FAST_MA2023 = Hardening(method=Method.MA2023, least=0.5, psnr_share=1.0, psnr_steps=2)
"""The baseline with attacks as cheap."""

_EPOCHS = 100
_CROP = 256
_LARGEST_BATCH = 4096


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a hardening does: a recipe for stage I, for stage II, or for both."""

    teacher: Recipe | None = None
    student: Recipe | None = None

    def __post_init__(self) -> None:
        if self.teacher is None and self.student is None:
            raise TrainingError("a plan needs a recipe for the teacher, the student or both")
        for name, recipe in self.stages():
            method = None if recipe.hardening is None else recipe.hardening.method
            if method is None or (method is Method.TEACHER) != (name == "teacher"):
                raise TrainingError(f"the {name} of a plan cannot be hardened by {method or 'nothing'}")
            assert recipe.hardening is not None
            for phase in recipe.phases:
                _check_shares(name, recipe.hardening, phase.batch)

    def stages(self) -> list[tuple[str, Recipe]]:
        """Give the names and recipes of the stages in order."""
        both = (("teacher", self.teacher), ("student", self.student))
        return [(name, recipe) for name, recipe in both if recipe is not None]

    def to_json(self) -> str:
        """Write the plan as JSON: an object of recipes."""
        document = {name: json.loads(recipe.to_json()) for name, recipe in self.stages()}
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read a plan. Raises TrainingError."""
        try:
            document = json.loads(text)
            if not isinstance(document, dict) or not set(document) <= {"teacher", "student"}:
                raise TrainingError("a file of recipes is an object with one as teacher, as student or as both")
            return cls(**{name: Recipe.from_json(json.dumps(recipe)) for name, recipe in document.items()})
        except (ValueError, RecursionError) as error:
            raise TrainingError(f"the recipe is not JSON: {error}") from error

    @classmethod
    def load(cls, path: Path) -> "Plan":
        """Read a plan from a file. Raises TrainingError."""
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise TrainingError(
                f"there is no recipe {path}; there are fast, paper, and files as --dry-run prints them"
            ) from error
        except OSError as error:
            raise TrainingError(f"the recipe {path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise TrainingError(f"the recipe {path} is no text; give a file as --dry-run prints one") from error


def fast(arch: str = "hyper") -> Plan:
    """Ours: stage II alone, from trained weights, with cheap attacks on half of the crops and on cuts of some."""
    return Plan(student=_short(FAST, arch, Rounding.MIXED))


def fast_ma2023(arch: str = "hyper") -> Plan:
    """Plain adversarial training with the steps, crops and cheap attacks of `fast`."""
    return Plan(student=_short(FAST_MA2023, arch, Rounding.NOISE))


def paper(pictures: int) -> Plan:
    """The paper's schedule for a number of training pictures: 100 epochs of batches of 16, then of 3.

    An epoch takes as many crops as there are pictures. The paper prints neither the size of its crops (256 here, as
    in the code it builds on), nor the weights of its terms, nor any clipping of gradients.
    """
    teacher = Hardening(method=Method.TEACHER, teacher_smooth=TEACHER_SMOOTH)
    student = Hardening(
        method=Method.DISTILLED,
        least=1.0,
        attacker=Attacker.PAPER,
        psnr_share=1 / 3,
        psnr_steps=200,
        bpp_share=1 / 3,
        bpp_steps=100,
        smooth=SMOOTH,
    )
    return Plan(teacher=_epochs(pictures, 16, teacher), student=_epochs(pictures, 3, student))


def paper_ma2023() -> Plan:
    """Ma2023 as its code trains: 2,000 steps at 1e-4, all 8 crops attacked, 300 steps each, the budget rising for 100.

    Its attack takes a batch as one picture, ours each crop on its own.
    """
    hardening = Hardening(
        method=Method.MA2023, least=1.0, ramp=100, attacker=Attacker.MA2023, psnr_share=1.0, psnr_steps=300
    )
    phase = Phase(share=1.0, rate_from=1e-4, rate_to=1e-4, batch=8, crop=_CROP)
    return Plan(student=Recipe(steps=2000, phases=(phase,), average_horizon=0.0, hardening=hardening))


def fitted(plan: Plan, arch: str, channels: tuple[int, int], qualities: tuple[float, float]) -> Plan:
    """Fit a plan to the network that it begins with: its N and M, and the qualities it was trained for."""
    low, high = qualities
    return Plan(
        **{
            name: dataclasses.replace(recipe, arch=arch, channels=channels, quality_low=low, quality_high=high)
            for name, recipe in plan.stages()
        }
    )


def with_options(
    plan: Plan,
    *,
    epsilon: float | None = None,
    teacher_smooth: float | None = None,
    rate: float | None = None,
    smooth: float | None = None,
    steps: int | None = None,
    seed: int | None = None,
) -> Plan:
    """Put what was asked for into a plan; None leaves a value as it is.

    Raises UsageError for an option that no stage of the plan uses, and for one that is out of range.
    """
    asked = {"epsilon": epsilon, "teacher_smooth": teacher_smooth, "rate": rate, "smooth": smooth}
    options: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    used: set[str] = set()
    changed: dict[str, Recipe] = {}
    for name, recipe in plan.stages():
        assert recipe.hardening is not None
        own = {option: value for option, value in options.items() if recipe.hardening.uses(option)}
        used |= set(own)
        try:
            changed[name] = dataclasses.replace(
                recipe,
                steps=recipe.steps if steps is None else steps,
                seed=recipe.seed if seed is None else seed,
                hardening=dataclasses.replace(recipe.hardening, **own),
            )
        except TrainingError as error:
            raise UsageError(str(error)) from error
    unused = sorted(set(options) - used)
    if unused:
        raise UsageError(f"no stage that is to run uses {unused[0]}; leave it out or choose another recipe or stage")
    return Plan(**changed)


def _check_shares(stage: str, hardening: Hardening, batch: int) -> None:
    """Refuse shares of a batch that come to no crop: the run would go without what its recipe asks for."""

    def empty(batch: int) -> list[str]:
        psnr, bpp = hardening.attacks(batch)
        counts = {"psnr_share": psnr, "bpp_share": bpp, "local_share": hardening.cuts(batch)}
        return [share for share, count in counts.items() if getattr(hardening, share) and not count]

    lacking = empty(batch)
    if lacking:
        share = lacking[0]
        enough = next((larger for larger in range(batch, _LARGEST_BATCH + 1) if not empty(larger)), None)
        remedy = f"make the share larger{'' if enough is None else f', or the batch {enough}'}"
        raise TrainingError(
            f"{share} {getattr(hardening, share):g} of the {stage}'s batch of {batch} is no crop at all; {remedy}"
        )


def _short(hardening: Hardening, arch: str, rounding: Rounding) -> Recipe:
    """A short run on trained weights: a warm-up of the optimiser, then a falling rate."""
    recipe = Recipe(
        steps=1500,
        precision=Precision.AUTO,
        phases=(
            Phase(share=0.05, rate_from=1e-5, rate_to=3e-4, rounding=rounding),
            Phase(share=0.95, rate_from=3e-4, rate_to=0.0, rounding=rounding),
        ),
        hardening=hardening,
    )
    return adapted(recipe, arch, recipe.channels)


def _epochs(pictures: int, batch: int, hardening: Hardening) -> Recipe:
    """Adam at 5e-5, halved after each quarter; the last weights are kept, not their average."""
    rates = (5e-5, 2.5e-5, 1.25e-5, 6.25e-6)
    return Recipe(
        steps=_EPOCHS * math.ceil(pictures / batch),
        average_horizon=0.0,
        validations=_EPOCHS,
        phases=tuple(Phase(share=0.25, rate_from=rate, rate_to=rate, batch=batch, crop=_CROP) for rate in rates),
        hardening=hardening,
    )

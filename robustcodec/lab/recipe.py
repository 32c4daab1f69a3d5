"""What a training run does, as one value that can be printed, saved and loaded."""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from robustcodec.errors import TrainingError
from robustcodec.lab.precision import Precision
from robustcodec.rate import HIGHEST, LOWEST

CROP_UNIT = 64
"""Crops are whole multiples of what one element of the side information stands for."""

MAX_RATE = 1e15
"""Far beyond any use: only keeps infinity out."""

_MAX_WHOLE = 2**63
"""As far: only keeps out what fits into no float."""

_CANDIDATES = (0.5, 0.625, 0.75, 0.875)
"""Shares of a hardening run after which its average may be better than at the end: before, it has not learnt enough."""


class Start(StrEnum):
    """What a run begins with unless it is given weights."""

    ORTHONORMAL = "orthonormal"
    """A transform measured on the training pictures."""
    CONVENTIONAL = "conventional"
    """The usual random kernels, torch's own as in CompressAI, and GDN with beta 1 and gamma 0.1 on its diagonal."""


class Trained(StrEnum):
    """Which parameters a phase trains."""

    ALL = "all"
    ENTROPY = "entropy"
    """The hyper networks and the prior, on a fixed transform."""
    DECODER = "decoder"
    """Synthesis, hyper synthesis and the prior, behind a fixed analysis."""


class Rounding(StrEnum):
    """What stands for rounding while training."""

    NOISE = "noise"
    """Uniform noise for rate and distortion."""
    MIXED = "mixed"
    """Noise for the rate, straight-through rounding for the distortion."""
    ROUND = "round"
    """Straight-through rounding for both."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of a run: `share` of its steps, with the learning rate going linearly from one value to another."""

    share: float
    rate_from: float
    rate_to: float
    batch: int = 8
    crop: int = 128
    trained: Trained = Trained.ALL
    rounding: Rounding = Rounding.NOISE

    def __post_init__(self) -> None:
        _check_range("share", self.share, 0, 1)
        _check_range("rate_from", self.rate_from, 0, MAX_RATE)
        _check_range("rate_to", self.rate_to, 0, MAX_RATE)
        _check_range("batch", self.batch, 1, 4096)
        _check_range("crop", self.crop, CROP_UNIT, 4096)
        if self.crop % CROP_UNIT:
            raise TrainingError(f"crop must be a multiple of {CROP_UNIT}, not {self.crop}")


class Method(StrEnum):
    """What a hardening run minimises; `robustcodec.lab.hardening` has the formulas."""

    TEACHER = "teacher"
    """The paper's stage I: rate and distortion of clean crops, and smooth_loss."""
    DISTILLED = "distilled"
    """The paper's stage II: attacked and clean crops, the rate held at what a teacher pays for the clean ones."""
    MA2023 = "ma2023"
    """Plain adversarial training: rate and distortion of attacked crops, which are their own targets."""
    FAST = "fast"
    """Rate and distortion of attacked and clean crops, with the clean ones as targets."""


class Attacker(StrEnum):
    """What attacks crops while training."""

    NORMALISED = "normalised"
    """Steps along the normalised gradient, for several crops at once."""
    PAPER = "paper"
    """The paper's attacks (equations 6 and 7)."""
    MA2023 = "ma2023"
    """Ma2023's search, which drives the decoded crop away from the decoded clean one."""
    CROSSING = "crossing"
    """Crossings of rounding's thresholds, which gradients do not see. Its steps are rounds."""


@dataclass(frozen=True, kw_only=True)
class Hardening:
    """How a run hardens. A field that the method does not use keeps its default, or is refused."""

    method: Method
    epsilon: float = 5e-4
    """Budget: the mean of n^2 over the samples of each crop's noise n, crops in [0, 1]."""
    least: float = 0.2
    """Each attacked crop's own budget is drawn from this share of epsilon to all of it."""
    ramp: int = 0
    """Steps of the run over which epsilon rises to its value, linearly from nothing."""
    attacker: Attacker = Attacker.NORMALISED
    psnr_share: float = 0.0
    """Share of a batch's crops that are attacked for distortion."""
    psnr_steps: int = 4
    bpp_share: float = 0.0
    """Share of a batch's crops that are attacked for rate."""
    bpp_steps: int = 4
    teacher_smooth: float = 0.0
    """Weight of smooth_loss in stage I (the paper's alpha of algorithm 1, line 6)."""
    rate: float = 0.02
    """Weight of the rate in stage II, against a mean absolute error (the paper's alpha of equation 5)."""
    smooth: float = 0.0
    """Weight of smooth_loss beside an attack (the paper's beta of equation 5)."""
    smooth_bpp: float = 1.0
    """Weight of the gradient of bpp_main within smooth_loss."""
    smooth_latents: float = 1.0
    """Weight of the Jacobian of y within smooth_loss."""
    distil: bool = True
    """Hold the rate at the teacher's; without it stage II pays for its rate, and there is no teacher."""
    clean_target: bool = False
    """Measure stage II's distortion against the clean crop instead of the attacked one."""
    attacked: float = 1.0
    """Weight of an attacked crop against a clean one."""
    stability: float = 0.0
    """Weight of lambda * 255^2 * MSE between the decoded attacked and clean crop."""
    local_share: float = 0.0
    """As many more crops as this share of a batch, of half its side, are attacked for distortion with budgets of 4
    epsilon or more: what a whole picture's budget is where an attack gathers it."""
    local_steps: int = 6
    local_most: float = 32.0
    """The largest of these budgets, in epsilons."""
    local: float = 1.5
    """Weight of such a crop against a clean one of its area, divided by its budget in epsilons."""
    gain_quantile: float | None = None
    """Inverse normalisations get limits before the run: this quantile of the most that each multiplies by in each
    of some training crops. None sets no limits, and leaves those that there are."""
    dead_zones: bool = False
    """Train with dead zones (see `dead_zones`), and give them to the encoder of the exported model."""
    dither: bool = False
    """Give the exported model dither (see `dead_zones.DITHERED`). Training has noise for rounding, or rounds."""
    attacked_share: float = 0.0
    """Share of attacked latents in what the exported model's tables are counted on."""

    def __post_init__(self) -> None:
        _check_range("epsilon", self.epsilon, 1e-9, 1)
        for name in ("least", "psnr_share", "bpp_share", "attacked_share"):
            _check_range(name, getattr(self, name), 0, 1)
        _check_range("ramp", self.ramp, 0, 1e9)
        _check_range("local_share", self.local_share, 0, 1)
        _check_range("local_most", self.local_most, 4, 1e4)
        if self.gain_quantile is not None:
            _check_range("gain_quantile", self.gain_quantile, 0, 1)
        for name in ("psnr_steps", "bpp_steps", "local_steps"):
            _check_range(name, getattr(self, name), 1, 1e6)
        for name in _WEIGHTS:
            _check_range(name, getattr(self, name), 0, 1e9)
        _check_range("psnr_share + bpp_share", self.psnr_share + self.bpp_share, 0, 1 + 1e-6)
        for field in dataclasses.fields(self):
            if not self.uses(field.name) and getattr(self, field.name) != field.default:
                raise TrainingError(f"hardening by {self.method} does not use {field.name}; leave it out")
        if self.attacker is not Attacker.NORMALISED and self.least != 1:
            raise TrainingError(f"attacks by {self.attacker} use the whole budget; set least to 1")
        if self.method is not Method.TEACHER and self.psnr_share + self.bpp_share == 0:
            raise TrainingError(f"hardening by {self.method} attacks crops; set psnr_share or bpp_share above 0")

    def uses(self, field: str) -> bool:
        """Whether the method reads a field."""
        return self.method in _USED_BY.get(field, (self.method,))

    def strength(self, step: int) -> float:
        """Share of epsilon that attacks have at a step, from 1."""
        return min(1.0, step / self.ramp) if self.ramp else 1.0

    def attacks(self, batch: int) -> tuple[int, int]:
        """Give how many crops of a batch are attacked for distortion, and how many for rate."""
        psnr = round(self.psnr_share * batch)
        return psnr, min(round(self.bpp_share * batch), batch - psnr)

    def cuts(self, batch: int) -> int:
        """Give how many crops of a batch small cuts are attacked of."""
        return round(self.local_share * batch)


_WEIGHTS = ("teacher_smooth", "rate", "smooth", "smooth_bpp", "smooth_latents", "attacked", "stability", "local")
_ATTACKING = (Method.DISTILLED, Method.MA2023, Method.FAST)
_USED_BY = {
    **dict.fromkeys(
        ("epsilon", "least", "ramp", "attacker", "psnr_share", "psnr_steps", "bpp_share", "bpp_steps"), _ATTACKING
    ),
    "teacher_smooth": (Method.TEACHER,),
    "smooth": (Method.DISTILLED, Method.FAST),
    "smooth_bpp": (Method.TEACHER, Method.DISTILLED, Method.FAST),
    "smooth_latents": (Method.TEACHER, Method.DISTILLED, Method.FAST),
    **dict.fromkeys(("rate", "distil", "clean_target"), (Method.DISTILLED,)),
    **dict.fromkeys(
        ("attacked", "stability", "local_share", "local_steps", "local_most", "local", "dead_zones"), (Method.FAST,)
    ),
}
"""Which methods read a field."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run. Steps 1 to `steps` go through the phases in order."""

    steps: int
    phases: tuple[Phase, ...]
    arch: str = "hyper"
    channels: tuple[int, int] = (128, 192)
    """N and M."""
    start: Start = Start.ORTHONORMAL
    quality_low: float = 4.0
    quality_high: float = 4.0
    """Each crop's quality is drawn from this range, evenly in the logarithm of the step."""
    anchor_share: float = 0.25
    """Share of the crops that stay at quality 4 all the same, the quality that results are reported at."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    average_horizon: float = 0.02
    """Length of the exponential moving average of the weights, as a share of the steps done."""
    precision: Precision = Precision.FLOAT32
    seed: int = 0
    validations: int = 20
    """How often the average is validated in a run."""
    hardening: Hardening | None = None
    """How to harden; without it the loss is rate and distortion alone."""

    def __post_init__(self) -> None:
        _check_range("anchor_share", self.anchor_share, 0, 1)
        _check_range("clip", self.clip, 1e-9, 1e9)
        _check_range("average_horizon", self.average_horizon, 0, 1)
        _check_range("validations", self.validations, 1, 1e6)
        _check_range("seed", self.seed, 0, 2**31)
        for count in self.channels:
            _check_range("channels", count, 1, 1024)
        _check_range("quality_low", self.quality_low, LOWEST, HIGHEST)
        _check_range("quality_high", self.quality_high, self.quality_low, HIGHEST)
        if self.steps < 1 or not self.phases:
            raise TrainingError("a recipe needs at least one step and one phase")
        if abs(sum(phase.share for phase in self.phases) - 1) > 1e-6:
            raise TrainingError("the shares of a recipe's phases must add up to 1")

    def ends(self) -> tuple[int, ...]:
        """Last step of each phase."""
        total = 0.0
        ends = []
        for phase in self.phases:
            total += phase.share
            ends.append(round(total * self.steps))
        # shares may miss 1 by a little
        return (*ends[:-1], self.steps)

    def candidates(self) -> tuple[int, ...]:
        """Steps before the last at which a hardening run keeps its average, to choose from at the end."""
        if self.hardening is None:
            return ()
        return tuple(sorted({round(share * self.steps) for share in _CANDIDATES} - {0, self.steps}))

    def at(self, step: int) -> tuple[Phase, float]:
        """Give the phase of a step (1 to `steps`) and the learning rate there."""
        begin = 0
        for phase, end in zip(self.phases, self.ends(), strict=True):
            if step <= end:
                position = (step - begin - 1) / max(end - begin - 1, 1)
                return phase, phase.rate_from + (phase.rate_to - phase.rate_from) * position
            begin = end
        raise ValueError(f"step {step} is beyond the recipe's {self.steps}")

    def to_json(self) -> str:
        """Write the recipe as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """Read a recipe; unknown or ill-typed fields are refused by name."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise TrainingError(f"the recipe is not JSON: {error}") from error
        recipe = _build(cls, document, "recipe")
        assert isinstance(recipe, Recipe)
        return recipe

    @classmethod
    def load(cls, path: Path) -> "Recipe":
        """Read a recipe from a file."""
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise TrainingError(f"the recipe {path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise TrainingError(f"the recipe {path} is not JSON: {error}") from error


def from_start(steps: int) -> Recipe:
    """Train from the orthonormal start: warm-up, a constant rate, a long decay."""
    return Recipe(
        steps=steps,
        precision=Precision.AUTO,
        phases=(
            Phase(share=0.04, rate_from=1e-5, rate_to=1e-3),
            Phase(share=0.46, rate_from=1e-3, rate_to=1e-3),
            Phase(share=0.4, rate_from=1e-3, rate_to=5e-5),
            Phase(share=0.1, rate_from=5e-5, rate_to=0.0, rounding=Rounding.MIXED),
        ),
    )


def continued(steps: int) -> Recipe:
    """Go on from trained weights with a fresh optimiser: a short warm-up, a constant rate, a long decay."""
    return Recipe(
        steps=steps,
        precision=Precision.AUTO,
        phases=(
            Phase(share=0.02, rate_from=1e-5, rate_to=1e-3),
            Phase(share=0.48, rate_from=1e-3, rate_to=1e-3),
            Phase(share=0.4, rate_from=1e-3, rate_to=5e-5),
            Phase(share=0.1, rate_from=5e-5, rate_to=0.0, rounding=Rounding.MIXED),
        ),
    )


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # not true of NaN either
        raise TrainingError(f"{name} must lie between {low:g} and {high:g}, not {value:g}")


def _build(kind: Any, value: Any, where: str) -> Any:
    """Turn a JSON value into the annotated type `kind`, strictly."""
    origin = typing.get_origin(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise TrainingError(f"{where} must be an object")
        hints = typing.get_type_hints(kind)
        unknown = sorted(set(value) - set(hints))
        if unknown:
            raise TrainingError(f"{where} has an unknown field {unknown[0]!r}; known are {', '.join(hints)}")
        try:
            return kind(**{name: _build(hints[name], item, f"{where}.{name}") for name, item in value.items()})
        except TypeError as error:
            raise TrainingError(f"{where} is incomplete: {error}") from error
    if origin is tuple:
        inner = typing.get_args(kind)
        if not isinstance(value, list) or (inner[-1] is not Ellipsis and len(value) != len(inner)):
            raise TrainingError(f"{where} must be a list of the right length")
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(_build(k, item, f"{where}[{i}]") for i, (k, item) in enumerate(zip(kinds, value, strict=True)))
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        return _build(next(k for k in typing.get_args(kind) if k is not types.NoneType), value, where)
    if issubclass(kind, StrEnum):
        if value not in list(kind):
            raise TrainingError(f"{where} is {value!r}; it can be {', '.join(kind)}")
        return kind(value)
    if isinstance(value, int) and abs(value) > _MAX_WHOLE:
        raise TrainingError(f"{where} is too large a number")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        raise TrainingError(f"{where} must be of type {kind.__name__}")
    return value

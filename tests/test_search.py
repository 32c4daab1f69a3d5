"""The searches on curves that are known: targets are met, limits are kept, what cannot be is said."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from robustcodec.errors import TargetError
from robustcodec.rate import STEP_MAX, STEP_MIN, STEP_WORTHWHILE
from robustcodec.search import finest_step_within, step_for_psnr

many = settings(max_examples=150, deadline=None, derandomize=True)
TOLERANCE, TRIES = 0.1, 6


def noise(step: int, seed: int) -> float:
    """A number in [-1, 1] that looks random."""
    return math.sin(step * 12.9898 + seed * 78.233) ** 3


class Counted:
    """A curve that counts how often it is asked, and refuses steps that do not exist or were asked before."""

    def __init__(self, curve: Callable[[int], float]) -> None:
        self.curve = curve
        self.asked: dict[int, float] = {}

    def __call__(self, step: int) -> tuple[float, str]:
        assert STEP_MIN <= step <= STEP_MAX and step not in self.asked
        self.asked[step] = self.curve(step)
        return self.asked[step], made_at(step)


def made_at(step: int) -> str:
    """Stands for the file that is made at a step."""
    return f"file of step {step}"


# --- sizes --------------------------------------------------------------------------------------------------


@st.composite
def sizes(draw: st.DrawFn) -> Callable[[int], int]:
    """Falling sizes: a floor, a power of the step, words of four bytes or larger leaps."""
    floor = draw(st.integers(40, 2000))
    scale = draw(st.floats(1.0, 1e7))
    power = draw(st.floats(0.2, 2.0))
    word = draw(st.sampled_from([1, 4, 4, 4, 64, 1000]))
    saturation = draw(st.floats(0, 300))
    return lambda step: floor + int(scale * (step + saturation) ** -power) // word * word


@given(sizes(), st.floats(1.0, 1.2), st.integers(STEP_MIN, STEP_MAX - 1))
@many
def test_sizes_are_at_most_the_target_and_near_it_if_any_is(
    curve: Callable[[int], int], factor: float, start: int
) -> None:
    floor, ceiling = curve(STEP_MAX), curve(STEP_WORTHWHILE)
    target = int(floor * (ceiling / floor) ** (factor * 5 - 5)) if ceiling > floor else floor
    counted = Counted(curve)
    step, made = finest_step_within(counted, target, start, 0.005)  # type: ignore[arg-type]
    assert counted.asked[step] <= target and made == made_at(step)
    best = max((size for size in map(curve, every_step()) if size <= target), default=0)
    assert counted.asked[step] >= min(best, target * 0.99)
    assert len(counted.asked) <= 40


def every_step() -> list[int]:
    """Steps close enough for all sizes that differ by more than half a percent on the curves of this test."""
    return sorted({round(STEP_WORTHWHILE * 1.002**power) for power in range(3816)} | {STEP_MAX})


def test_ordinary_sizes_take_few_tries() -> None:
    for target in (10_000, 60_000, 300_000):
        counted = Counted(lambda step: 40 + int(6e7 / (step + 100)))
        step, made = finest_step_within(counted, target, 1024, 0.005)  # type: ignore[arg-type]
        assert target * 0.995 <= counted.asked[step] <= target and made == made_at(step)
        assert len(counted.asked) <= 7


@given(st.integers(0, 1000), st.integers(60, 200_000))
@many
def test_noisy_sizes_never_exceed_the_target(seed: int, target: int) -> None:
    counted = Counted(lambda step: 40 + int(3e7 / step * (1 + 0.01 * noise(step, seed))))
    try:
        step, made = finest_step_within(counted, target, 1024, 0.005)  # type: ignore[arg-type]
    except TargetError:
        assert counted.asked[STEP_MAX] > target
    else:
        assert counted.asked[step] <= target and made == made_at(step)
        assert counted.asked[step] >= 0.97 * min(target, counted.curve(STEP_WORTHWHILE))
    assert len(counted.asked) <= 40


@pytest.mark.parametrize("start", [STEP_MIN, STEP_WORTHWHILE, 1024])
def test_the_finest_step_worth_its_bytes_is_taken_where_everything_fits(start: int) -> None:
    counted = Counted(lambda step: 1000 - step // 100)
    assert finest_step_within(counted, 10_000, start, 0.005) == (STEP_WORTHWHILE, made_at(STEP_WORTHWHILE))
    assert min(counted.asked) == STEP_WORTHWHILE


def test_too_small_a_size_is_refused_with_the_least_there_is() -> None:
    with pytest.raises(TargetError, match="at least 500 bytes with this model, not 499; allow more"):
        finest_step_within(Counted(lambda step: 500), 499, 1024, 0.005)


# --- fidelity -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fidelity:
    """PSNR of a model whose error is its own, `ceiling` dB, and one of quantising, `at_1024` dB at step 1024."""

    ceiling: float
    at_1024: float
    power: float
    noise: float
    seed: int

    def __call__(self, step: int) -> float:
        error = 10 ** (-self.ceiling / 10) + 10 ** (-self.at_1024 / 10) * (step / 1024) ** self.power
        # a picture of nothing has about 13 dB
        error = 1 / (1 / error + 1 / 0.05)
        return -10 * math.log10(error) + self.noise * noise(step, self.seed)


fidelities = st.builds(
    Fidelity,
    ceiling=st.floats(27, 50),
    at_1024=st.floats(26, 38),
    power=st.floats(0.9, 2.0),
    noise=st.sampled_from([0.0, 0.0, 0.01, 0.03]),
    seed=st.integers(0, 9),
)


@given(fidelities, st.floats(26, 42))
@example(Fidelity(30.3, 33, 1.5, 0, 0), 30.2)
@example(Fidelity(30.3, 33, 1.5, 0, 0), 31)
@settings(parent=many, max_examples=400)
def test_fidelity_is_met_within_a_tenth(curve: Fidelity, target: float) -> None:
    counted = Counted(curve)
    try:
        step, made = step_for_psnr(counted, target, 1024, TOLERANCE, TRIES)
    except TargetError as error:
        # within the noise of the model's limits either answer is right
        assert not target < curve(STEP_MIN) - 0.1
        assert "at most" in str(error)
    else:
        assert abs(counted.asked[step] - target) <= TOLERANCE and made == made_at(step)
    assert len(counted.asked) <= TRIES


@given(st.floats(5, 60), st.integers(1, 400), st.integers(0, 5))
@many
def test_steppy_and_noisy_fidelity_ends_in_an_answer_or_a_sentence(target: float, leap: int, seed: int) -> None:
    """Leaps of up to 4 dB: within a tenth, else the least above of what was measured, or a refusal."""
    counted = Counted(lambda step: round((60 - 4.3 * math.log(step) + noise(step, seed)) * 100 / leap) * leap / 100)
    try:
        step, made = step_for_psnr(counted, target, 1024, TOLERANCE, TRIES)
    except TargetError as error:
        beyond, end = (max, STEP_MIN) if "ask for less" in str(error) else (min, STEP_MAX)
        assert abs(beyond(counted.asked.values()) - target) > TOLERANCE and end in counted.asked
        assert (beyond([*counted.asked.values(), target]) == target) and "ask for" in str(error)
    else:
        found, near = counted.asked[step], [each for each in counted.asked.values() if abs(each - target) <= TOLERANCE]
        assert made == made_at(step)
        assert found in near if near else found == min(each for each in counted.asked.values() if each > target)
    first = list(counted.asked.values())[:TRIES]
    assert len(counted.asked) <= TRIES or not min(first) <= target <= max(first)


def test_between_two_leaps_the_one_above_is_taken() -> None:
    counted = Counted(lambda step: 33.4 if step < 1000 else 32.7)
    step, _ = step_for_psnr(counted, 33, 1024, TOLERANCE, TRIES)
    assert counted.asked[step] == 33.4 and len(counted.asked) <= TRIES


def test_limits_of_the_model_are_named() -> None:
    curve = Fidelity(30, 40, 2.0, 0.0, 0)
    with pytest.raises(TargetError, match=r"gives this picture 30\.09 dB at most, not 33; ask for less"):
        step_for_psnr(Counted(curve), 33, 1024, TOLERANCE, TRIES)
    with pytest.raises(TargetError, match=r"gives this picture 13\.\d\d dB at least, not 5; ask for more"):
        step_for_psnr(Counted(curve), 5, 1024, TOLERANCE, TRIES)


@pytest.mark.parametrize("found", [math.inf, 30.0])
def test_flat_curves_end(found: float) -> None:
    """A picture of one colour may come back exactly at every step."""
    with pytest.raises(TargetError, match=r"at least|at most"):
        step_for_psnr(Counted(lambda step: found), 40, 1024, TOLERANCE, TRIES)

"""The training loop: one loop for every loss, resumable at any step.

Everything random in step k comes from a generator seeded with (seed, k), so a run's random state and sampler
position are its step count, and a run that was killed and resumed ends with the same weights.
"""

import copy
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustcodec.errors import TrainingError
from robustcodec.lab.data import Pool
from robustcodec.lab.dead_zones import zones_of
from robustcodec.lab.gradients import gradients_of, use_fast_kernels
from robustcodec.lab.losses import WHOLE, Batch, Loss, Part, draw_qualities
from robustcodec.lab.memory import memory_named
from robustcodec.lab.networks import Network, round_straight_through
from robustcodec.lab.recipe import Phase, Recipe, Trained
from robustcodec.lab.runs import Run, State, cpu_copy
from robustcodec.lab.team import ALONE, Team
from robustcodec.rate import high_rate_step, score

EXACT = 100.0
"""PSNR in dB that a picture which comes out exactly counts with, so that means stay finite."""
_LOG_EVERY = 50
_SAVE_SECONDS = 240.0
_FRESH_STEPS = 200
"""Warm-up of an optimiser that began anew in the middle of a run, whose moments were not kept."""
_SEED_STRIDE = 1_000_003
_NO_MEMORY = "training needs more memory than there is; take smaller batches or crops in the recipe"


@dataclass(frozen=True)
class Progress:
    """What a running training reports every few steps."""

    step: int
    steps: int
    seconds_left: float
    figures: dict[str, float]


Report = Callable[[Progress], None]
Stop = Callable[[], bool]
"""Asked after every step whether to stop there."""


@memory_named(_NO_MEMORY)
def fit(
    run: Run,
    recipe: Recipe,
    state: State,
    network: Network,
    loss: Loss,
    pool: Pool,
    validation: Tensor,
    report: Report,
    *,
    until: float = math.inf,
    save_every: float | None = None,
    record: bool = True,
    stop: Stop = lambda: False,
    team: Team = ALONE,
) -> bool:
    """Train `network` in place from `state` to the end of the recipe, or to the time `until` (time.monotonic()).

    Once `stop` says so, the state is saved after the step in hand. Gives whether the end was reached.
    The network and the pool are on the device that trains. Every `save_every` seconds and at the end the run's state
    on disk is replaced by the latest weights and their average. A state without moments, not at step 0, goes on with
    a fresh optimiser. At the recipe's `candidates` the average is kept. `record` lets a GPU replay its steps as CUDA
    graphs. Of a `team` the first process alone writes, and says when to stop. Raises
    TrainingError for a state that is not the run's or a training that diverges, and LimitExceeded where the memory does
    not suffice.
    """
    team.check(recipe)
    _check_state(run.folder, recipe, state, network)
    if not team.first:
        run = _Onlooker(run.folder)
    device = next(network.parameters()).device
    network = network.to(memory_format=torch.channels_last)
    average = copy.deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.Adam(network.parameters(), betas=(0.9, 0.99), fused=True)
    _restore(state, network, average, optimiser)
    run.rewind_log(state.step)
    done, spent = state.step, state.seconds
    optimiser_from = done - max((int(moments["step"]) for moments in state.moments.values()), default=0)
    use_fast_kernels(device)
    compute = gradients_of(
        network, loss, recipe.precision, lambda note: run.log({"step": done, "note": note}), record=record
    )
    save_every = _SAVE_SECONDS if save_every is None else save_every
    validate_at = {round(recipe.steps * (i + 1) / recipe.validations) for i in range(recipe.validations)}
    candidates = set(recipe.candidates())
    began = saved = time.monotonic()
    sums: dict[str, Tensor] = {}
    since = 0
    for step in range(done + 1, recipe.steps + 1):
        phase, rate = recipe.at(step)
        _select(network, phase.trained)
        if optimiser_from > 0:
            rate *= min(1.0, (step - optimiser_from) / _FRESH_STEPS)
        for group in optimiser.param_groups:
            group["lr"] = rate
        step_figures = compute(draw_batch(recipe, phase, step, pool, device, team.part))
        team.average_gradients(network)
        norm = nn.utils.clip_grad_norm_(network.parameters(), recipe.clip, foreach=True)
        optimiser.step()
        _update_average(average, network, step, recipe)
        for name, value in {**step_figures, "gradient": norm}.items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + value
        since += 1
        last = step == recipe.steps or time.monotonic() >= until
        if step % _LOG_EVERY == 0 or last:
            figures = {name: float(value) / since for name, value in sums.items()}
            sums, since = {}, 0
            _check_finite(figures.values(), step)
            seconds = spent + time.monotonic() - began
            run.log({"step": step, "seconds": round(seconds, 2), "rate": rate, **figures})
            left = (time.monotonic() - began) / (step - done) * (recipe.steps - step)
            report(Progress(step, recipe.steps, left, figures))
        if step in validate_at or last:
            figures = validate(average, validation, recipe)
            _check_finite(figures.values(), step)
            run.log({"step": step, "pixels": pixels_seen(recipe, step), **figures})
            left = (time.monotonic() - began) / (step - done) * (recipe.steps - step)
            report(Progress(step, recipe.steps, left, figures))
        if step in candidates:
            run.keep_candidate(step, cpu_copy(average.state_dict()))
        stopped = team.agree(stop())
        if last or stopped or time.monotonic() - saved > save_every:
            _check_finite((float(parameter.detach().sum()) for parameter in network.parameters()), step)
            run.save(_state(step, spent + time.monotonic() - began, network, average, optimiser))
            saved = time.monotonic()
        if last or stopped:
            return step == recipe.steps
    return True


class _Onlooker(Run):
    """A run that another process writes."""

    def save(self, state: State) -> None:
        """Leave the state to the other process; so with the rest."""

    def log(self, record: dict[str, Any]) -> None:
        pass

    def rewind_log(self, step: int) -> None:
        pass

    def keep_candidate(self, step: int, average: dict[str, Tensor]) -> None:
        pass


def _check_finite(values: Iterable[float], step: int) -> None:
    if not all(map(math.isfinite, values)):
        raise TrainingError(
            f"training diverged before step {step}; begin a new run with smaller learning rates, from --init this run "
            "whose state is of an earlier step"
        )


def draw_batch(recipe: Recipe, phase: Phase, step: int, pool: Pool, device: torch.device, part: Part = WHOLE) -> Batch:
    """Draw the batch of a step, which depends on the recipe's seed and the step alone, or a part of it."""
    generator = torch.Generator(device).manual_seed(recipe.seed * _SEED_STRIDE + step)
    x = pool.draw(phase.batch, phase.crop, generator).contiguous(memory_format=torch.channels_last)
    quality_step, lagrangian = draw_qualities(recipe, phase.batch, generator)
    strength = 1.0 if recipe.hardening is None else recipe.hardening.strength(step)
    x, quality_step, lagrangian = part.of(x), part.of(quality_step), part.of(lagrangian)
    return Batch(x, quality_step, lagrangian, generator, phase.rounding, strength, part)


@memory_named(_NO_MEMORY)
def seconds_per_step(
    recipe: Recipe,
    network: Network,
    loss: Loss,
    pool: Pool,
    budget: float = 40.0,
    *,
    record: bool = True,
    part: Part = WHOLE,
) -> float:
    """Measure a step on a `part` of each batch, with a copy of the network, for `budget` seconds.

    It is averaged over the phases by their shares. Raises LimitExceeded where the memory does not suffice.
    """
    device = next(network.parameters()).device
    use_fast_kernels(device)
    trial = copy.deepcopy(network).to(memory_format=torch.channels_last)
    average = copy.deepcopy(trial).requires_grad_(False)
    optimiser = torch.optim.Adam(trial.parameters(), lr=0.0, fused=True)
    compute = gradients_of(trial, loss, recipe.precision, lambda _: None, record=record)
    # a GPU works behind the CPU's back: only many steps together can be timed
    together = 20 if device.type == "cuda" else 1
    mean = 0.0
    for phase in recipe.phases:
        _select(trial, phase.trained)
        deadline = time.monotonic() + budget * phase.share
        times: list[float] = []
        while len(times) < 3 or time.monotonic() < deadline:
            began = time.monotonic()
            for _ in range(together):
                compute(draw_batch(recipe, phase, 1, pool, device, part))
                nn.utils.clip_grad_norm_(trial.parameters(), recipe.clip, foreach=True)
                optimiser.step()
                _update_average(average, trial, 1, recipe)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append((time.monotonic() - began) / together)
        mean += phase.share * sorted(times)[len(times) // 2]
    return mean


@torch.no_grad()
def validate(network: Network, crops: Tensor, recipe: Recipe) -> dict[str, float]:
    """Measure J on crops as a model of the run would code them, by the entropy model's estimate.

    That is at the quality that is reported, with rounded latents, within dead zones if the recipe has them.
    """
    zones = zones_of(recipe.hardening)
    network.entropy_bottleneck.set_quantiles()
    device = next(network.parameters()).device
    quality = reported_quality(recipe)
    bits: list[float] = []
    decibels: list[float] = []
    for crop in torch.split(crops, 4):
        x = crop.to(device).contiguous(memory_format=torch.channels_last)
        step = torch.full((x.shape[0],), high_rate_step(quality), device=device)
        coded = network(x, step, round_straight_through, round_straight_through, zones)
        shown = (coded.x_hat * 255).round().clamp(0, 255)
        mse = (shown - x * 255).square().mean((1, 2, 3))
        decibels += (10 * torch.log10(255**2 / mse)).clamp(max=EXACT).tolist()
        bits += (coded.bits / (x.shape[2] * x.shape[3])).tolist()
    bpp, psnr = sum(bits) / len(bits), sum(decibels) / len(decibels)
    return {"validation_bpp": bpp, "validation_psnr": psnr, "validation_J": score(bpp, psnr, quality)}


def reported_quality(recipe: Recipe) -> float:
    """Quality that a run is judged at: 4 where the recipe covers it, else its lowest."""
    return 4.0 if recipe.quality_low <= 4 <= recipe.quality_high else recipe.quality_low


def pixels_seen(recipe: Recipe, step: int) -> int:
    """Training pixels up to and including a step."""
    total, begin = 0, 0
    for phase, end in zip(recipe.phases, recipe.ends(), strict=True):
        total += max(0, min(step, end) - begin) * phase.batch * phase.crop**2
        begin = end
    return total


def _select(network: Network, trained: Trained) -> None:
    """Let gradients flow to the parameters that a phase trains, and to no others."""
    frozen = {Trained.ALL: (), Trained.ENTROPY: ("g_a.", "g_s."), Trained.DECODER: ("g_a.", "h_a.")}[trained]
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen) if frozen else True)


@torch.no_grad()
def _update_average(average: Network, network: Network, step: int, recipe: Recipe) -> None:
    """Exponential moving average whose memory is a share of the steps done so far."""
    weight = min(1.0, 1.0 / (1.0 + recipe.average_horizon * step))
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), weight)


def _state(step: int, seconds: float, network: Network, average: Network, optimiser: torch.optim.Adam) -> State:
    moments = {
        name: cpu_copy(optimiser.state[parameter])
        for name, parameter in network.named_parameters()
        if parameter in optimiser.state
    }
    return State(step, seconds, cpu_copy(network.state_dict()), cpu_copy(average.state_dict()), moments)


def _check_state(folder: Path, recipe: Recipe, state: State, network: Network) -> None:
    """Refuse a state of another run: beyond the recipe's end, or with other tensors than the network's."""
    if state.step > recipe.steps:
        raise TrainingError(
            f"{folder} holds a state of step {state.step}, but its run has {recipe.steps} steps; begin another run "
            f"with --init {folder}"
        )
    shapes = _shapes(network.state_dict())
    whole = _shapes(state.weights) == _shapes(state.average) == shapes
    for name, moments in state.moments.items():
        own = shapes.get(name)
        whole = whole and _shapes(moments) == {"step": torch.Size(), "exp_avg": own, "exp_avg_sq": own}
    if not whole:
        raise TrainingError(
            f"the state of {folder} is damaged: its tensors are not those of its network; delete the folder to begin "
            "again"
        )


def _shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _restore(state: State, network: Network, average: Network, optimiser: torch.optim.Adam) -> None:
    network.load_state_dict(state.weights)
    average.load_state_dict(state.average)
    for name, parameter in network.named_parameters():
        if name in state.moments:
            # step counts stay on the CPU for CPU parameters and move along for the GPU's fused Adam
            optimiser.state[parameter] = {
                key: tensor.to(parameter.device) for key, tensor in state.moments[name].items()
            }
            for key in ("exp_avg", "exp_avg_sq"):
                moment = optimiser.state[parameter][key]
                if moment.dim() == 4:
                    optimiser.state[parameter][key] = moment.contiguous(memory_format=torch.channels_last)

"""`robustcodec train`: gather data and weights, then run the loop on a new or an interrupted run."""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from robustcodec.errors import LimitExceeded, TrainingError
from robustcodec.graphs import check_size
from robustcodec.lab import limits
from robustcodec.lab.architectures import make_network, untrained
from robustcodec.lab.checkpoints import fill, load_weights, network_of
from robustcodec.lab.data import Pool, centre_crops, picture_files, picture_sizes, pool_bytes, read_pictures
from robustcodec.lab.hardening import loss_of, needs_teacher
from robustcodec.lab.losses import Loss
from robustcodec.lab.memory import available_memory, memory_named
from robustcodec.lab.networks import Network
from robustcodec.lab.precision import Precision, resolved
from robustcodec.lab.recipe import CROP_UNIT, Recipe, Start
from robustcodec.lab.runs import Run, Settings, State, cpu_copy, default_device, digest, threads_for, use_threads
from robustcodec.lab.team import ALONE, Team
from robustcodec.lab.training import Report, Stop, fit, seconds_per_step
from robustcodec.words import counted, duration

_VALIDATION_CROP = 256
_START_CROPS = 256
_HELD_OUT_ONE_IN = 25
_HELD_OUT_MOST = 48

Announce = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Order:
    """A new run as it was asked for. `hours` replaces the recipe's number of steps by what fits into them.

    `teacher` is where a run that learns from one finds it: a run, a bundle or a checkpoint.
    """

    recipe: Recipe
    data: Path
    validation: Path | None = None
    init: Path | None = None
    hours: float | None = None
    teacher: Path | None = None


def train(
    run: Run,
    order: Order | None,
    report: Report,
    announce: Announce,
    stop: Stop = lambda: False,
    team: Team = ALONE,
) -> bool:
    """Train to the end of the recipe: the run in the folder if there is one, else a new one as ordered.

    An order for a folder that holds a run must be the one that the run was begun with, and so must the pictures.
    Gives whether the end was reached, which it is not once `stop` says so. Every process of a `team` calls this.
    Raises TrainingError, and LimitExceeded where the memory does not suffice.
    """
    run.check_name()
    if order is None and not run.exists:
        raise TrainingError(f"{run.folder} holds no run to resume")
    settings = run.settings() if order is None else _settings(order)
    check_size(settings.recipe.arch, settings.recipe.channels)
    team.check(settings.recipe)
    if order is not None and order.init is not None and not run.exists:
        check_init(order.init, settings.recipe)
    with run.lock() if team.first else nullcontext():
        return _train(run, settings, order, report, announce, stop, team)


def check_order(run: Run, order: Order) -> None:
    """Raise TrainingError if a folder that holds a run was not begun by this order."""
    _same_settings(run, _settings(order))


def check_init(source: Path, recipe: Recipe) -> None:
    """Raise TrainingError for weights that the recipe's network cannot begin with, before any work is done."""
    trained = network_of(load_weights(source), str(source))
    if trained.arch != recipe.arch:
        make_network(recipe.arch, recipe.channels).check_start(trained)
    elif (trained.n, trained.m) != recipe.channels:
        raise TrainingError(
            f"{source} has {trained.n} and {trained.m} channels, not {recipe.channels[0]} and {recipe.channels[1]}; "
            f"set channels to {trained.n},{trained.m}, by --channels or in the recipe, or give other weights"
        )


def _train(
    run: Run, settings: Settings, order: Order | None, report: Report, announce: Announce, stop: Stop, team: Team
) -> bool:
    begins = team.agree(not run.exists)
    if begins and team.first:
        run.check_unused()
    if order is not None and not begins:
        settings = _same_settings(run, settings)
    _check_pictures(run, settings)
    use_threads(settings.threads)
    pool, crops = _load_pictures(settings, announce, team)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.recipe.seed)
        network = make_network(settings.recipe.arch, settings.recipe.channels)
    if begins and order is not None and team.first:
        _begin(run, settings, order, network, pool, announce, team)
    team.agree(True)  # what follows was written by the first
    settings = run.settings()
    state = run.load()
    if state is None:
        raise TrainingError(f"{run.folder} has settings but no state; delete it and begin again")
    loss = _loss(run, settings)
    network = network.to(default_device())
    done = fit(run, settings.recipe, state, network, loss, pool, crops, report, stop=stop, team=team)
    return team.agree(done)  # by when the first has written the last state, which others may go on to read


def _loss(run: Run, settings: Settings) -> Loss:
    """Give the loss of a run, with the teacher that its folder keeps."""
    hardening = settings.recipe.hardening
    if not needs_teacher(hardening):
        return loss_of(hardening, None)
    teacher = network_of(run.teacher(settings.teacher), f"the teacher of {run.folder}")
    return loss_of(hardening, teacher.to(default_device()).to(memory_format=torch.channels_last))


def _settings(order: Order) -> Settings:
    settings = Settings(
        recipe=order.recipe,
        data=str(order.data.resolve()),
        validation=None if order.validation is None else str(order.validation.resolve()),
        parent=f"{order.recipe.start} start" if order.init is None else str(order.init.resolve()),
        threads=threads_for(None),
        teacher=None if order.teacher is None else digest(load_weights(order.teacher)),
        hours=order.hours,
    )
    return dataclasses.replace(settings, pictures=_digest(settings))


def _same_settings(run: Run, asked: Settings) -> Settings:
    """Give the settings of the run in the folder if they are those asked for; the machine may be another."""
    settings = run.settings()
    recipe = asked.recipe
    # what a machine has settled stays so
    if asked.hours is not None:
        recipe = dataclasses.replace(recipe, steps=settings.recipe.steps)
    if recipe.precision is Precision.AUTO:
        recipe = dataclasses.replace(recipe, precision=settings.recipe.precision)
    asked = dataclasses.replace(asked, recipe=recipe, threads=settings.threads, pictures=settings.pictures)
    if asked != settings:
        raise TrainingError(
            f"{run.folder} holds a run with other settings; resume it by naming it alone, or choose another folder"
        )
    return settings


def _check_pictures(run: Run, settings: Settings) -> None:
    """Refuse to go on with other pictures: held-out ones could be trained on, and the weights would be others."""
    if settings.pictures not in (None, _digest(settings)):
        folders = " and ".join(folder for folder in (settings.data, settings.validation) if folder is not None)
        raise TrainingError(
            f"the pictures in {folders} are not those that {run.folder} was begun with; put those back, or begin "
            f"another run with --init {run.folder}"
        )


def _digest(settings: Settings) -> str:
    """Sum up which pictures there are by sha256 over their names and sizes."""
    sums = hashlib.sha256()
    for folder in (Path(name) for name in (settings.data, settings.validation) if name is not None):
        for path in picture_files(folder):
            sums.update(os.fsencode(path.relative_to(folder).as_posix()) + f"\0{path.stat().st_size}\0".encode())
        sums.update(b"\0")
    return sums.hexdigest()


def _begin(
    run: Run, settings: Settings, order: Order, network: Network, pool: Pool, announce: Announce, team: Team
) -> None:
    """Set the first weights, settle precision and steps, and write the run's settings and first state."""
    arithmetic = resolved(settings.recipe.precision, default_device())
    recipe = dataclasses.replace(settings.recipe, precision=arithmetic)
    if needs_teacher(recipe.hardening):
        if order.teacher is None:
            raise TrainingError("stage II learns from the teacher that stage I trains; train that one first")
        run.keep_teacher(load_weights(order.teacher))
    if order.init is not None:
        _begin_with(network, order.init, recipe, pool, announce)
    elif recipe.start is Start.ORTHONORMAL:  # a conventional start is what the network was made with
        announce("measuring the orthonormal start")
        generator = torch.Generator().manual_seed(recipe.seed)
        network.start(_draw(pool, _START_CROPS, recipe, generator), generator)
    if recipe.hardening is not None and recipe.hardening.gain_quantile is not None:
        generator = torch.Generator().manual_seed(recipe.seed)
        crops = _draw(pool, limits.CROPS, recipe, generator)
        limits.limit_gains(network, crops, recipe.hardening.gain_quantile)
    if order.hours is not None:
        loss = _loss(run, settings)
        seconds = seconds_per_step(recipe, network.to(default_device()), loss, pool, part=team.part)
        recipe = dataclasses.replace(recipe, steps=max(1, round(order.hours * 3600 / seconds)))
        announce(f"{seconds:.3f} s a step: {counted(recipe.steps, 'step')} in {duration(order.hours * 3600)}")
    settings = dataclasses.replace(settings, recipe=recipe)
    weights = network.state_dict()
    run.create(settings, State(0, 0.0, cpu_copy(weights), cpu_copy(weights), {}))


def _begin_with(network: Network, source: Path, recipe: Recipe, pool: Pool, announce: Announce) -> None:
    """Begin with the weights of a run, a bundle or a checkpoint."""
    weights = load_weights(source)
    trained = untrained(weights, str(source))
    if trained.arch == network.arch:
        fill(network, weights, str(source), announce)
        return
    fill(trained, weights, str(source), announce)
    announce(f"fitting {network.arch} to what {trained.arch} does")
    generator = torch.Generator().manual_seed(recipe.seed)
    network.start_from(trained, lambda count: _draw(pool, count, recipe, generator), generator)


def _draw(pool: Pool, count: int, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Give the crops that a start is measured on."""
    return pool.draw(count, recipe.phases[0].crop, generator).cpu()


def _load_pictures(settings: Settings, announce: Announce, team: Team) -> tuple[Pool, Tensor]:
    """Give the training pool and the validation crops; without a validation folder some pictures are held out."""
    files, held_out = split_pictures(settings)
    crop = max(phase.crop for phase in settings.recipe.phases)
    if team.first:  # the others may have begun to read
        _check_memory(files, held_out, crop, team.here)
    announce(f"reading {counted(len(files), 'picture')} for training, {len(held_out)} for validation")
    with memory_named("the pictures take more memory than there is; shrink them, or give fewer"):
        pool = Pool.of(read_pictures(files, announce, crop), crop, default_device())
        return pool, _crops(held_out, announce)


def _check_memory(files: list[Path], held_out: list[Path], crop: int, processes: int) -> None:
    """Raise LimitExceeded if the pictures take more memory than the machine has available."""
    pool = pool_bytes(picture_sizes(files), crop)
    shown = sum(3 * height * width for height, width in picture_sizes(held_out))
    # a pool is copied together out of its pictures, and stays while those held out are read
    needed, available = processes * max(2 * pool, pool + shown), available_memory()
    if available is not None and needed > available:
        raise LimitExceeded(
            f"the pictures take {needed / 1e9:.1f} GB of memory while they are read, and {available / 1e9:.1f} GB are "
            "available; shrink them, or give fewer"
        )


def validation_crops(settings: Settings, announce: Announce) -> Tensor:
    """Give the crops that a run is validated on (K, 3, H, W) in [0, 1]."""
    return _crops(split_pictures(settings)[1], announce)


def _crops(files: list[Path], announce: Announce) -> Tensor:
    """Cut out the middles of all pictures that reach the side that half of them reach."""
    sides = sorted(min(size) for size in picture_sizes(files))
    reached = sides[len(sides) // 2] if sides else 0
    side = max(CROP_UNIT, min(_VALIDATION_CROP, reached // CROP_UNIT * CROP_UNIT))
    return centre_crops(read_pictures(files, announce, side), side)


def split_pictures(settings: Settings) -> tuple[list[Path], list[Path]]:
    """Give the files a run trains on and those it is validated on, which are held out of the data by default."""
    return split_files(Path(settings.data), None if settings.validation is None else Path(settings.validation))


def split_files(data: Path, validation: Path | None) -> tuple[list[Path], list[Path]]:
    """Give the files to train on and those to validate on, of one folder or of two."""
    files = picture_files(data)
    if validation is not None:
        return files, picture_files(validation)
    every = max(_HELD_OUT_ONE_IN, len(files) // _HELD_OUT_MOST)
    return [file for index, file in enumerate(files) if index % every] or files, files[::every]

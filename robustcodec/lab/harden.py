"""`robustcodec harden`: the stages of a plan, each a run of its own, and the bundle that they end in.

RUN/teacher    the run of stage I
RUN/student    the run of stage II
RUN/model      the bundle of the last stage that is done
RUN/measured   attacked pictures and figures of the start and of the result, as `robustcodec evaluate` writes them
RUN/lock       empty; held by the process that hardens
"""

import dataclasses
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from robustcodec import bundle
from robustcodec.bundle import ANALYSIS, ENTROPY, LAB, MANIFEST, SYNTHESIS, Bundle, manifest_document, write_bundle
from robustcodec.errors import OutputError, TrainingError, UsageError
from robustcodec.graphs import check_size
from robustcodec.lab.checkpoints import load_weights, network_of
from robustcodec.lab.choice import Choice, choose, strong_gain
from robustcodec.lab.data import picture_sizes, read_pictures
from robustcodec.lab.evaluation.grid import Event
from robustcodec.lab.evaluation.subjects import Group
from robustcodec.lab.export import Point, calibration_files, export, export_run
from robustcodec.lab.hardening import needs_teacher
from robustcodec.lab.hardening_request import Request
from robustcodec.lab.progress import Reporter
from robustcodec.lab.recipe import CROP_UNIT, Method, Recipe
from robustcodec.lab.resistance import Comparison, compare, held_out, manifest_entries
from robustcodec.lab.restraint import NONE, restraint_of
from robustcodec.lab.runs import Run, Settings, default_device, digest, threads_for, use_threads
from robustcodec.lab.team import ALONE, Team
from robustcodec.lab.train import (
    Announce,
    Order,
    check_init,
    check_order,
    split_files,
    split_pictures,
    train,
    validation_crops,
)
from robustcodec.lab.training import Report, Stop, reported_quality, validate

MODEL, MEASURED = "model", "measured"
"""Names of the bundle and of the measurements inside a run of `harden`."""

_VARIANTS = {Method.TEACHER: "teacher", Method.MA2023: "ma2023"}
_UNMEASURED = "compare with nothing: give the whole command with --measure none"


class _Stopped(Exception):
    """Ends the attacks on a finished run; what was measured is kept."""


@dataclass(frozen=True, kw_only=True)
class Hardened:
    """The bundle that a hardening ended in, what it was chosen from, and its numbers before and after.

    `choice` is None, and there are no comparisons, where nothing was to be attacked.
    """

    bundle: Bundle
    points: tuple[Point, ...]
    choice: Choice | None
    comparisons: tuple[Comparison, ...]


def harden(request: Request, announce: Announce, stop: Stop = lambda: False, team: Team = ALONE) -> Hardened | None:
    """Train the stages that are not done yet, choose a checkpoint of the last, export and measure it.

    The same request again goes on where it was interrupted. None if `stop` ended it before, and in
    every process of a `team` but the first, which trains with them and does the rest alone. Raises TrainingError,
    ModelError, OutputError, and UsageError for folders that get into each other's way.
    """
    use_threads(threads_for(None))
    stages = _stages(request)
    if team.first:
        if len(stages) < len(request.plan.stages()):
            announce(f"{request.run / 'teacher'} is gone; the student has begun and keeps a copy of it")
        request = _checked(request, stages, announce)
    # before the request is written: it may be that of a process which has not begun its first stage yet
    with Run(request.run).lock() if team.first else nullcontext():
        if team.first:
            request.save()
        for name, recipe in stages:
            folder = request.run / name
            announce(f"stage {'I' if name == 'teacher' else 'II'}: {folder}")
            with Reporter(folder, announce) as reporter:
                report: Report = reporter.report if team.first else lambda _: None
                if not train(Run(folder), _order(request, recipe), report, announce, stop, team):
                    return None
        if not team.first:
            return None
        try:
            return _finish(request, Run(request.run / stages[-1][0]), announce, stop)
        except _Stopped:
            return None


def _stages(request: Request) -> list[tuple[str, Recipe]]:
    """Give the stages to run: not the first if its folder is gone and the second, which keeps its result, has begun."""
    stages = request.plan.stages()
    gone = Run(request.run / "student").exists and not Run(request.run / "teacher").exists
    return stages[1:] if gone and len(stages) > 1 else stages


def _checked(request: Request, stages: Sequence[tuple[str, Recipe]], announce: Announce) -> Request:
    """Find what would end a hardening later, before anything is written; give the request with the start's digest."""
    check_folders(request)
    begun = True
    for name, recipe in stages:
        run = Run(request.run / name)
        if run.exists:
            check_order(run, _order(request, recipe))
        else:
            begun = False
            _check_material(request, recipe)
    request = dataclasses.replace(request, start=_digest_of_start(request, announce))
    if request.crops or not begun:
        _check_start(request, _UNMEASURED if begun else "name another folder with -o")
    return request


def check_folders(request: Request) -> None:
    """Refuse folders that would get into each other's way. Raises UsageError, OutputError."""
    run = request.run.resolve()
    if request.init.resolve().is_relative_to(run):
        raise UsageError(
            f"{request.init} lies in {request.run}, where the result would replace what numbers before and after are "
            "of; name another folder with -o, or begin stage 2 with the --init that stage 1 had"
        )
    for pictures in (request.data, request.validation):
        if pictures is not None and run.is_relative_to(pictures.resolve()):
            raise UsageError(
                f"{request.run} lies in {pictures}, where the attacked pictures that it will hold would count as "
                "pictures of yours; name a folder elsewhere with -o"
            )
    model = request.run / MODEL
    if model.exists() and not (model / MANIFEST).is_file():
        raise OutputError(f"{model} exists and is no model; move it away, or name another folder with -o")


def _check_material(request: Request, recipe: Recipe) -> None:
    """Refuse weights and pictures that a stage cannot begin with. Raises TrainingError, ModelError."""
    check_size(recipe.arch, recipe.channels)
    check_init(request.init, recipe)
    training, validation = split_files(request.data, request.validation)
    crop = max(phase.crop for phase in recipe.phases)
    for purpose, files, side in (
        ("train on", training, crop),
        ("calibrate on", calibration_files(training), CROP_UNIT),
        ("validate on", validation, CROP_UNIT),
    ):
        if all(min(size) < side for size in picture_sizes(files)):
            raise TrainingError(f"no picture to {purpose} is readable and has {side}x{side} pixels; use larger ones")


def _digest_of_start(request: Request, announce: Announce) -> str:
    """Digest of the weights that are hardened, as they were when the first stage began."""
    if any(Run(request.run / name).exists for name in ("teacher", "student")) and Request.exists(request.run):
        try:
            kept = Request.load(request.run)
        except TrainingError:
            announce(f"the request in {request.run} cannot be read and is replaced; the start is {request.init} of now")
        else:
            if kept.start is not None and kept.init.resolve() == request.init.resolve():
                return kept.start
    return digest(load_weights(request.init))


def _check_start(request: Request, remedy: str) -> None:
    """Raise TrainingError if the weights to begin or to compare with are no longer those of the start."""
    if digest(load_weights(request.init)) != request.start:
        raise TrainingError(
            f"{request.init} holds other weights than when {request.run} was begun; put them back, or {remedy}"
        )


def _order(request: Request, recipe: Recipe) -> Order:
    """What is asked of a stage's run."""
    return Order(
        recipe=recipe,
        data=request.data,
        validation=request.validation,
        init=request.init,
        hours=None if request.hours is None else request.hours / len(request.plan.stages()),
        teacher=_teacher(request.run) if needs_teacher(recipe.hardening) else None,
    )


def _finish(request: Request, run: Run, announce: Announce, stop: Stop) -> Hardened:
    """Make the model of a finished run."""
    settings = run.settings()
    recipe = settings.recipe
    assert recipe.hardening is not None
    folder = request.run / MODEL
    variant = _VARIANTS.get(recipe.hardening.method, "robust")
    if not request.crops:
        exported = export_run(run.folder, folder, _id(request.run), variant, None, announce)
        return Hardened(bundle=exported.bundle, points=exported.points, choice=None, comparisons=())

    _check_start(request, _UNMEASURED)
    training, validation = split_pictures(settings)
    groups = held_out(validation, request.crops)
    sources = _sources(run, recipe, announce)
    choice = _choose(request, settings, sources, groups, announce, stop)

    def report(event: Event) -> None:
        if event.what and event.step == 1:
            announce(f"attacking {groups[0].crop}x{groups[0].crop} crops: {event.what}, {event.steps} steps")
        if stop():
            raise _Stopped

    # elsewhere: an interruption must not leave a model without its figures where one with them may have been
    with tempfile.TemporaryDirectory() as scratch:
        exported = export_run(sources[choice.step], Path(scratch) / MODEL, _id(request.run), variant, None, announce)
        model, start = exported.bundle, _start(request, training, groups, announce)
        comparisons = compare(
            start,
            model,
            groups,
            reported_quality(recipe),
            recipe.hardening.epsilon,
            recipe.precision,
            request.run / MEASURED,
            report,
        )
        document = manifest_document(model.manifest)
        document["provenance"] = {**document["provenance"], "choice": dataclasses.asdict(choice)}
        document["attacks"] = manifest_entries(comparisons, start)
        parts = {ANALYSIS: model.analysis, SYNTHESIS: model.synthesis, ENTROPY: model.entropy, LAB: model.lab}
        written = write_bundle(folder, document, parts)
    return Hardened(bundle=written, points=exported.points, choice=choice, comparisons=comparisons)


def _sources(run: Run, recipe: Recipe, announce: Announce) -> dict[int, Path]:
    """Where weights to choose from lie, by their step; those that are gone are announced."""
    kept = {step: run.candidate(step) for step in recipe.candidates()}
    gone = [step for step, path in kept.items() if not path.is_file()]
    if gone:
        announce(f"the weights of step {', '.join(map(str, gone))} are gone from {run.folder}: chosen without them")
    return {**{step: path for step, path in kept.items() if step not in gone}, recipe.steps: run.folder}


def _choose(
    request: Request,
    settings: Settings,
    sources: Mapping[int, Path],
    groups: Sequence[Group],
    announce: Announce,
    stop: Stop,
) -> Choice:
    """Choose among the checkpoints of the last stage."""
    recipe = settings.recipe
    assert recipe.hardening is not None
    quality, epsilon = reported_quality(recipe), recipe.hardening.epsilon
    crops = validation_crops(settings, announce)

    def clean(source: Path, recipe: Recipe) -> float:
        network = network_of(load_weights(source), str(source)).to(default_device())
        return validate(network, crops, recipe)["validation_J"]

    def report(*_: object) -> None:
        if stop():
            raise _Stopped

    def gain(step: int) -> float:
        announce(f"attacking the checkpoint of step {step}")
        pixels = [[each.pixels for each in group.load()] for group in groups]
        return strong_gain(sources[step], pixels, quality, epsilon, recipe.precision, report)

    scores = {step: clean(source, recipe) for step, source in sources.items()}
    start = clean(request.init, dataclasses.replace(recipe, hardening=None))
    choice = choose(scores, start, request.j_limit, gain)
    for candidate in choice.candidates:
        found = "" if candidate.gain is None else f", A {candidate.gain:.2f}"
        announce(f"checkpoint of step {candidate.step}: J {candidate.score:.4f}{found}")
    announce(f"chosen: step {choice.step}; the start has J {choice.start:.4f}, at most {choice.limit:.4f} is allowed")
    if not choice.within:
        announce("no checkpoint keeps the limit of J: this is the one of lowest J; train longer or raise --j-limit")
    return choice


def _start(request: Request, training: Sequence[Path], groups: Sequence[Group], announce: Announce) -> Bundle:
    """Give the model that was hardened as a bundle: itself, or an export made for the comparison."""
    if (request.init / MANIFEST).is_file():
        return bundle.open_bundle(request.init)
    announce("exporting the start, to compare with")
    run = Run.behind(request.init)
    return export(
        load_weights(request.init),
        request.run / MEASURED / "start",
        id="start",
        variant="base",
        provenance={"source": request.init.name},
        calibration=read_pictures(calibration_files(training), announce),
        validation=[each.pixels for group in groups for each in group.load()],
        announce=announce,
        restraint=NONE if run is None else restraint_of(run.settings().recipe.hardening),
    ).bundle


def _teacher(run: Path) -> Path:
    """Where stage II finds what it learns from: the run of stage I, or its own copy where that is gone."""
    teacher, student = Run(run / "teacher"), Run(run / "student")
    kept = student.settings().teacher if student.exists else None
    if not teacher.exists and kept is not None:
        student.teacher(kept)  # says what is wrong with a copy that is damaged
        return student.teacher_file
    state = teacher.load() if teacher.exists else None
    if state is None or state.step < teacher.settings().recipe.steps:
        raise TrainingError(f"stage II learns from {teacher.folder}, which is not done; run --stage 1 or both first")
    return teacher.folder


def _id(run: Path) -> str:
    """Make an id of a folder's name."""
    return re.sub(r"[^a-z0-9._-]+", "-", run.resolve().name.lower()).strip("._-")[:64] or "hardened"

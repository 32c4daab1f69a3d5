"""What a hardening is asked for: refused before anything is trained or written, and found again when it goes on."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from regenerate import CHENG, TINY, sample
from safetensors.torch import save_file
from typer.testing import CliRunner

from robustcodec.bundle import MANIFEST
from robustcodec.cli import app
from robustcodec.errors import ModelError, OutputError, RobustcodecError, TrainingError, UsageError
from robustcodec.images import Picture, write_picture
from robustcodec.lab.checkpoints import load_weights
from robustcodec.lab.harden import _sources, harden
from robustcodec.lab.hardening_recipes import FAST, Plan, fast, fitted
from robustcodec.lab.hardening_request import Request
from robustcodec.lab.recipe import Hardening, Method, Phase, Recipe
from robustcodec.lab.runs import Run, digest

STUDENT = Recipe(
    steps=3,
    channels=(8, 12),
    validations=1,
    phases=(Phase(share=1.0, rate_from=1e-4, rate_to=0.0, batch=2, crop=64),),
    hardening=Hardening(method=Method.FAST, bpp_share=0.5, bpp_steps=1),
)
BOTH = Plan(
    teacher=dataclasses.replace(STUDENT, steps=1, hardening=Hardening(method=Method.TEACHER)),
    student=dataclasses.replace(STUDENT, hardening=Hardening(method=Method.DISTILLED, psnr_share=0.5, psnr_steps=1)),
)


def quiet(_: object) -> None:
    """Report to nobody."""


def write_pictures(folder: Path, height: int, width: int) -> Path:
    folder.mkdir()
    for seed in range(2):
        data = write_picture(Picture(pixels=sample(height, width, seed)), "PNG")
        (folder / f"{seed}.png").write_bytes(data)
    return folder


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    """A hardening that would take a moment."""
    data = write_pictures(tmp_path / "pictures", 64, 80)
    return Request(run=tmp_path / "run", data=data, validation=None, init=TINY, plan=Plan(student=STUDENT))


def test_folders_in_each_others_way_are_refused(request_: Request, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    shutil.copytree(TINY, inside / "model")
    before = (inside / "model" / MANIFEST).read_bytes()
    with pytest.raises(UsageError, match=r"lies in .*inside, .*another folder with -o"):
        harden(dataclasses.replace(request_, run=inside, init=inside / "model"), quiet)
    assert (inside / "model" / MANIFEST).read_bytes() == before

    others = write_pictures(tmp_path / "others", 64, 64)
    for run, folders in (
        (request_.data / "run", {}),
        (request_.data, {}),
        (others / "deep" / "run", {"validation": others}),
    ):
        with pytest.raises(UsageError, match=r"lies in .*elsewhere with -o"):
            harden(dataclasses.replace(request_, run=run, **folders), quiet)
    assert not list(tmp_path.rglob("request.json"))


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_what_is_no_model_is_not_found_after_the_training(request_: Request, make: Callable[[Path], None]) -> None:
    request_.run.mkdir()
    make(request_.run / "model")
    with pytest.raises(OutputError, match="model exists and is no model"):
        harden(request_, quiet)
    assert [path.name for path in request_.run.iterdir()] == ["model"]


def test_what_cannot_begin_leaves_nothing(request_: Request, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    small = write_pictures(tmp_path / "small", 63, 200)
    large = dataclasses.replace(STUDENT, channels=(128, 192))
    refusals: list[tuple[dict[str, object], type[RobustcodecError], str]] = [
        ({"data": tmp_path / "empty"}, TrainingError, "holds no pictures"),
        ({"validation": tmp_path / "empty"}, TrainingError, "holds no pictures"),
        ({"data": small}, TrainingError, "no picture to train on is readable and has 64x64 pixels"),
        ({"validation": small}, TrainingError, "no picture to validate on is readable"),
        ({"plan": Plan(student=large)}, TrainingError, "has 8 and 12 channels, not 128 and 192; set channels to 8,12"),
        ({"init": CHENG}, TrainingError, "a hyper network cannot begin with a cheng network"),
        ({"plan": Plan(student=dataclasses.replace(large, channels=(9, 9)))}, ModelError, "hyper with channels 9,9"),
    ]
    for change, kind, message in refusals:
        with pytest.raises(kind, match=message):
            harden(dataclasses.replace(request_, **change), quiet)  # type: ignore[arg-type]
        assert not request_.run.exists()


def test_one_process_at_a_time_hardens_in_a_folder(request_: Request) -> None:
    """The request of one that has not begun its first stage yet is not replaced."""
    request_.save()
    kept = Request.load(request_.run)
    other = dataclasses.replace(request_, plan=Plan(student=dataclasses.replace(STUDENT, steps=4)))
    with Run(request_.run).lock(), pytest.raises(TrainingError, match=r"another process is training in .*run; wait"):
        harden(other, quiet, lambda: True)
    assert Request.load(request_.run) == kept and not (request_.run / "student").exists()


def test_weights_that_have_changed_are_found_before_training(request_: Request, tmp_path: Path) -> None:
    """A request without a run is forgotten, with one it tells what the start was."""
    start = tmp_path / "start.safetensors"
    weights = load_weights(TINY)
    save_file(weights, start)
    asked = dataclasses.replace(request_, init=start)
    dataclasses.replace(asked, start="of what was there before").save()
    assert harden(asked, quiet, lambda: True) is None
    assert Request.load(asked.run).start == digest(weights)

    (asked.run / "request.json").write_text("{")
    with pytest.raises(TrainingError, match=r"request.json cannot be read .* give the whole command again"):
        Request.load(asked.run)
    said: list[str] = []
    assert harden(asked, said.append, lambda: True) is None
    assert any("cannot be read and is replaced" in line for line in said)

    save_file({name: tensor + 1e-3 for name, tensor in weights.items()}, start)
    said = []
    for request, remedy in (
        (Request.load(asked.run), "with --measure none"),
        # another stage would begin with them
        (dataclasses.replace(asked, plan=Plan(teacher=BOTH.teacher), crops=0), "another folder with -o"),
    ):
        with pytest.raises(TrainingError, match=f"other weights than when .* {remedy}"):
            harden(request, said.append)
    assert said == []


def test_a_student_needs_its_teacher_when_it_begins(request_: Request) -> None:
    asked = dataclasses.replace(request_, plan=BOTH)
    student, teacher = Run(asked.run / "student"), Run(asked.run / "teacher")
    assert harden(asked, quiet, lambda: student.exists) is None
    shutil.rmtree(teacher.folder)
    said: list[str] = []
    assert harden(asked, said.append, lambda: True) is None
    assert any("teacher is gone; the student has begun" in line for line in said) and not teacher.folder.exists()
    state = student.load()
    assert state is not None and state.step == 2
    copy = student.folder / "teacher.safetensors"
    copy.write_bytes(copy.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(TrainingError, match="other weights than the run began with"):
        harden(dataclasses.replace(asked, plan=Plan(student=BOTH.student)), quiet)


def test_candidates_that_are_gone_are_announced(tmp_path: Path) -> None:
    run, recipe = Run(tmp_path), dataclasses.replace(STUDENT, steps=8)
    for step in (4, 6):
        run.keep_candidate(step, {})
    said: list[str] = []
    found = _sources(run, recipe, said.append)
    assert found == {4: run.candidate(4), 6: run.candidate(6), 8: run.folder}
    assert len(said) == 1 and "step 5, 7 are gone" in said[0]
    for step in (5, 7):
        run.keep_candidate(step, {})
    assert set(_sources(run, recipe, said.append)) == {4, 5, 6, 7, 8} and len(said) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"crops": "x"},
        {"crops": True},
        {"crops": -1},
        {"crops": 1.5},
        {"hours": "x"},
        {"hours": 10**400},
        {"hours": float("nan")},
        {"j_limit": float("inf")},
        {"j_limit": None},
        {"data": 3},
        {"validation": []},
        {"start": 1},
        {"plan": {}},
        {"plan": "fast"},
    ],
)
def test_a_damaged_request_is_one(request_: Request, change: dict[str, object]) -> None:
    request_.save()
    assert Request.load(request_.run) == dataclasses.replace(request_, init=TINY.resolve())
    path = request_.run / "request.json"
    document = json.loads(path.read_text())
    for damaged in ({**document, **change}, {name: value for name, value in document.items() if name not in change}):
        path.write_text(json.dumps(damaged))
        with pytest.raises(TrainingError, match=r"request.json cannot be read \(.*give the whole command again"):
            Request.load(request_.run)


def test_a_request_nested_too_deeply_is_a_damaged_one(tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text('{"plan": ' + "[" * 100_000)
    with pytest.raises(TrainingError, match=r"request.json cannot be read \(.*give the whole command again"):
        Request.load(tmp_path)


@pytest.mark.parametrize(
    "option",
    [
        ("--epsilon", "0"),
        ("--epsilon", "nan"),
        ("--seed", "1000000000000"),
        ("--rate", "1"),
        ("--smooth", "-1"),
        ("--j-limit", "inf"),
        ("--j-limit", "1e308"),
        ("--hours", "inf"),
        ("--measure", "9" * 5000),
        ("--measure", "0"),
    ],
)
def test_wrong_values_are_wrong_usage(
    option: tuple[str, str], request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(request_.run.parent)
    plan = Plan(student=STUDENT) if option[0] == "--smooth" else fast()
    Path("plan.json").write_text(plan.to_json())
    asked = ["harden", "--data", "pictures", "--init", str(TINY), "--recipe", "plan.json", *option]
    assert isinstance(CliRunner().invoke(app, asked).exception, UsageError)
    assert not Path("hardened").exists()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (1, "psnr_share 0.125 of the student's batch of 1 is no crop at all; .* the batch 5"),
        (4, "psnr_share 0.125 of the student's batch of 4"),
        (5, None),
    ],
)
def test_shares_of_a_batch_are_crops(batch: int, message: str | None) -> None:
    ((_, recipe),) = fitted(fast(), "hyper", (8, 12), (4.0, 4.0)).stages()
    phases = tuple(dataclasses.replace(phase, batch=batch) for phase in recipe.phases)
    recipe = dataclasses.replace(recipe, phases=phases)
    if message is None:
        assert Plan(student=recipe).student == recipe
        return
    with pytest.raises(TrainingError, match=message):
        Plan(student=recipe)
    cuts = dataclasses.replace(FAST, psnr_share=0.0, bpp_share=1.0, local_share=0.1)
    with pytest.raises(TrainingError, match=r"local_share 0.1 of .* the batch 6"):
        Plan(student=dataclasses.replace(recipe, hardening=cuts))
    none = dataclasses.replace(cuts, local_share=1e-9)
    with pytest.raises(TrainingError, match=r"make the share larger$"):
        Plan(student=dataclasses.replace(recipe, hardening=none))

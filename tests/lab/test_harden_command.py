"""`robustcodec harden`: recipes as they are asked for, and the whole way from pictures to a model that encodes."""

import dataclasses
import errno
import json
import os
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from click.testing import Result
from regenerate import CHENG, TINY, sample
from safetensors.torch import save_file
from typer.testing import CliRunner

from robustcodec.api import load
from robustcodec.bundle import ANALYSIS, ENTROPY, LAB, SYNTHESIS, manifest_document, open_bundle, write_bundle
from robustcodec.cli import app
from robustcodec.cli.harden import HardeningMethod, Stage, _only, _plan
from robustcodec.errors import ModelNotFound, OutputError, RobustcodecError, TrainingError, UsageError
from robustcodec.images import Picture, write_picture
from robustcodec.lab import hardening_recipes as recipes
from robustcodec.lab.checkpoints import find_weights, load_weights, network_of, qualities_of
from robustcodec.lab.evaluation.crafting import write_pixels
from robustcodec.lab.harden import harden
from robustcodec.lab.hardening_estimate import estimate
from robustcodec.lab.hardening_recipes import Plan, fitted, with_options
from robustcodec.lab.hardening_request import Request
from robustcodec.lab.networks import LIMIT, round_straight_through
from robustcodec.lab.recipe import Attacker, Method, Phase
from robustcodec.lab.runs import Run, digest


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(3):
        (folder / f"{seed}.png").write_bytes(write_picture(Picture(pixels=sample(96, 80, seed)), "PNG"))
    return folder


def quick(plan: Plan, steps: int = 2) -> Plan:
    """The plan on the tiny network, with small crops and few attack steps."""
    small = {}
    for name, recipe in fitted(plan, "hyper", (8, 12), (1.0, 6.0)).stages():
        assert recipe.hardening is not None
        phases = tuple(dataclasses.replace(phase, batch=min(phase.batch, 3), crop=64) for phase in recipe.phases)
        hardening = recipe.hardening
        if hardening.method is not Method.TEACHER:
            share = max(hardening.psnr_share, 1 / 3)  # at least one of three crops
            hardening = dataclasses.replace(
                hardening, attacker=Attacker.NORMALISED, psnr_share=share, psnr_steps=4, bpp_steps=4
            )
        small[name] = dataclasses.replace(recipe, phases=phases, steps=steps, hardening=hardening, validations=1)
    return Plan(**small)


def quiet(_: object) -> None:
    """Report to nobody."""


def test_both_stages_end_in_a_model_that_encodes(pictures: Path, tmp_path: Path) -> None:
    plan = quick(recipes.paper(3))
    request = Request(run=tmp_path / "My run", data=pictures, validation=None, init=TINY, plan=plan)
    done = harden(request, quiet)
    assert done is not None
    model = open_bundle(tmp_path / "My run" / "model")
    assert (model.id, model.manifest.variant) == ("my-run", "robust")
    assert model.manifest.provenance["recipe"]["hardening"]["method"] == "distilled"
    teacher = Run(tmp_path / "My run" / "teacher").load()
    assert teacher is not None and model.manifest.provenance["teacher"] == digest(teacher.average)
    image = sample(64, 64, 9)
    loaded = load(str(model.path))
    assert loaded.decode(loaded.encode(image)).shape == image.shape
    states = [Run(tmp_path / "My run" / name).load() for name in ("teacher", "student")]
    assert [state.step if state else None for state in states] == [2, 2]
    said: list[str] = []
    again = harden(request, said.append)
    assert again is not None and again.bundle.fingerprint == model.fingerprint
    assert not any(line.startswith("step ") for line in said)


def test_stages_can_be_run_apart(pictures: Path, tmp_path: Path) -> None:
    plan = quick(recipes.paper(3), 1)
    request = Request(run=tmp_path / "run", data=pictures, validation=None, init=TINY, plan=plan)
    first, second = (dataclasses.replace(request, plan=_only(plan, stage)) for stage in (Stage.FIRST, Stage.SECOND))
    with pytest.raises(TrainingError, match="run --stage 1 or both first"):
        harden(second, quiet)
    done = harden(first, quiet)
    assert done is not None and done.bundle.manifest.variant == "teacher"
    done = harden(second, quiet)
    assert done is not None and done.bundle.manifest.variant == "robust"


def test_a_stopped_hardening_goes_on(pictures: Path, tmp_path: Path) -> None:
    plan = quick(recipes.fast_ma2023())
    request = Request(run=tmp_path / "run", data=pictures, validation=None, init=TINY, plan=plan)
    assert harden(request, quiet, lambda: True) is None
    assert not (tmp_path / "run" / "model").exists()
    with pytest.raises(TrainingError, match="other settings"):
        harden(dataclasses.replace(request, plan=quick(recipes.fast_ma2023(), 3)), quiet)
    kept = Request.load(tmp_path / "run")
    assert kept == dataclasses.replace(request, init=TINY.resolve(), start=digest(load_weights(TINY)))
    done = harden(kept, quiet)
    assert done is not None and done.bundle.manifest.variant == "ma2023"


def test_attacks_on_the_result_can_be_interrupted(pictures: Path, tmp_path: Path) -> None:
    request = Request(
        run=tmp_path / "run", data=pictures, validation=None, init=TINY, plan=quick(recipes.fast(), 1), crops=1
    )
    done = harden(dataclasses.replace(request, crops=0), quiet)
    assert done is not None and done.choice is None and done.comparisons == ()
    assert done.bundle.manifest.attacks == ()
    manifest = tmp_path / "run" / "model" / "manifest.json"
    written = manifest.stat().st_mtime_ns
    assert harden(request, quiet, lambda: True) is None
    assert manifest.stat().st_mtime_ns == written  # a model is replaced by one that has all its figures


def test_nothing_is_compared_with_another_start(pictures: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    weights = load_weights(TINY)
    save_file(weights, start)
    plan = quick(recipes.fast(), 1)
    request = Request(run=tmp_path / "run", data=pictures, validation=None, init=start, plan=plan, crops=0)
    assert harden(request, quiet) is not None
    save_file({name: tensor + 1e-3 for name, tensor in weights.items()}, start)
    with pytest.raises(TrainingError, match="other weights than when"):
        harden(dataclasses.replace(request, crops=1), quiet)
    assert harden(request, quiet) is not None


def test_the_papers_recipe_is_its_schedule() -> None:
    plan = recipes.paper(800)
    teacher, student = plan.teacher, plan.student
    assert teacher is not None and student is not None and student.hardening is not None
    assert (teacher.steps, student.steps) == (100 * 50, 100 * 267)
    for recipe, batch in ((teacher, 16), (student, 3)):
        epoch = recipe.steps // 100
        rates = [recipe.at(epoch * number)[1] for number in (1, 25, 26, 50, 51, 75, 76, 100)]
        assert rates == [5e-5, 5e-5, 2.5e-5, 2.5e-5, 1.25e-5, 1.25e-5, 6.25e-6, 6.25e-6]
        assert {phase.batch for phase in recipe.phases} == {batch}
    hardening = student.hardening
    assert (hardening.epsilon, hardening.psnr_steps, hardening.bpp_steps) == (5e-4, 200, 100)
    assert (hardening.attacks(3), hardening.attacker, hardening.least) == ((1, 1), Attacker.PAPER, 1.0)


def test_an_epoch_is_of_the_pictures_trained_on(pictures: Path, tmp_path: Path) -> None:
    for name in range(100, 200):
        shutil.copy(pictures / "0.png", pictures / f"{name}.png")
    (tmp_path / "other").mkdir()
    shutil.copy(pictures / "0.png", tmp_path / "other")
    for validation, count in ((None, 103 - 5), (tmp_path / "other", 103)):
        plan = _plan("paper", HardeningMethod.OURS, "cheng", pictures, validation)
        assert plan == recipes.paper(count)


@pytest.mark.parametrize("plan", [recipes.fast(), recipes.fast_ma2023(), recipes.paper(10), recipes.paper_ma2023()])
def test_a_plan_survives_json(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(plan.to_json())
    assert Plan.load(tmp_path / "plan.json") == plan
    assert _plan(str(tmp_path / "plan.json"), HardeningMethod.OURS, "hyper", tmp_path, None) == plan


def test_a_wrong_plan_is_refused(tmp_path: Path) -> None:
    both = json.loads(recipes.paper(10).to_json())
    for text, message in (
        ("{", "not JSON"),
        ('{"student": ' + "[" * 100_000, "not JSON"),
        ("[]", "an object with one as teacher"),
        ('{"third": {}}', "an object with one as teacher"),
        ("{}", "needs a recipe for"),
        (json.dumps({"teacher": both["student"]}), "teacher of a plan cannot be hardened by distilled"),
        (json.dumps({"student": both["teacher"]}), "student of a plan cannot be hardened by teacher"),
        (json.dumps({"student": {**both["student"], "hardening": None}}), "by nothing"),
    ):
        with pytest.raises(TrainingError, match=message):
            Plan.from_json(text)
    with pytest.raises(TrainingError, match="there is no recipe"):
        Plan.load(tmp_path / "none.json")
    with pytest.raises(TrainingError, match="cannot be read"):
        Plan.load(tmp_path)


def test_options_reach_the_stages_that_use_them() -> None:
    plan = with_options(recipes.paper(10), epsilon=1e-3, teacher_smooth=0.5, rate=0.25, smooth=0.125, steps=7, seed=3)
    assert plan.teacher is not None and plan.student is not None
    assert plan.teacher.hardening is not None and plan.student.hardening is not None
    assert plan.teacher.hardening.teacher_smooth == 0.5
    assert (plan.student.hardening.epsilon, plan.student.hardening.rate, plan.student.hardening.smooth) == (
        1e-3,
        0.25,
        0.125,
    )
    assert plan.teacher.steps == plan.student.steps == 7
    assert plan.teacher.seed == plan.student.seed == 3
    assert with_options(recipes.fast()) == recipes.fast()
    with pytest.raises(UsageError, match="no stage that is to run uses teacher_smooth"):
        with_options(recipes.fast(), teacher_smooth=0.1)
    with pytest.raises(UsageError, match="no stage 1"):
        _only(recipes.fast(), Stage.FIRST)


def test_weights_are_found_by_id_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(TINY.parent))
    monkeypatch.chdir(tmp_path)
    assert find_weights("hyper-tiny") == TINY
    assert find_weights(None) == find_weights(None, "hyper", "base") == TINY
    assert find_weights(None, "cheng") == CHENG
    with pytest.raises(ModelNotFound, match="'hyper' and variant 'unheard-of'"):
        find_weights(None, variant="unheard-of")
    with pytest.raises(UsageError, match="by --init or by --arch"):
        find_weights("hyper-tiny", "cheng")
    assert find_weights(open_bundle(TINY).fingerprint.hex()[:8]) == TINY
    (tmp_path / "mine.pth").write_bytes(b"")
    assert find_weights("mine.pth") == Path("mine.pth")
    with pytest.raises(ModelNotFound, match="no model 'nothing'"):
        find_weights("nothing")


def test_the_base_model_of_an_architecture_is_hardened_by_name(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(CHENG.parent))
    asked = ["harden", "--data", str(pictures), "--arch", "cheng", "--seed", "7", "--hours", "1", "--dry-run"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.exception
    student = _student(Plan.from_json(done.stdout))
    assert (student.arch, student.channels, student.seed) == ("cheng", (8, 8), 7)
    both = CliRunner().invoke(app, [*asked, "--init", "hyper-tiny"])
    assert isinstance(both.exception, UsageError)


def test_qualities_are_those_of_the_start(pictures: Path, tmp_path: Path) -> None:
    assert qualities_of(tmp_path / "checkpoint.pth") == (4.0, 4.0)
    plan = Plan(student=dataclasses.replace(_student(quick(recipes.fast(), 1)), quality_low=2.0, quality_high=5.0))
    harden(Request(run=tmp_path / "run", data=pictures, validation=None, init=TINY, plan=plan), quiet)
    student = Run(tmp_path / "run" / "student")
    assert qualities_of(student.folder) == (2.0, 5.0)
    student.keep_candidate(1, load_weights(TINY))
    assert qualities_of(student.candidate(1)) == (2.0, 5.0)
    shutil.copytree(student.folder, tmp_path / "candidates" / "1")  # a run of such a name is one
    assert qualities_of(tmp_path / "candidates" / "1") == (2.0, 5.0)
    assert qualities_of(tmp_path / "run" / "model") == (2.0, 5.0)


@pytest.mark.parametrize("recipe", [{"quality_low": "x", "quality_high": 10**400}, {"quality_low": []}, "4", None, 3])
def test_a_manifest_of_odd_qualities_says_nothing_of_them(recipe: object, tmp_path: Path) -> None:
    tiny = open_bundle(TINY)
    parts = {ANALYSIS: tiny.analysis, SYNTHESIS: tiny.synthesis, ENTROPY: tiny.entropy, LAB: tiny.lab}
    write_bundle(tmp_path / "odd", {**manifest_document(tiny.manifest), "provenance": {"recipe": recipe}}, parts)
    assert qualities_of(tmp_path / "odd") == (4.0, 4.0)


def test_an_estimate_extrapolates_attacks_of_many_steps(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a step takes 2 s and an attack's step 1 s more, 100 steps of 36 with 20 steps of attack take an hour."""

    def seconds(recipe: object, *_: object, **__: object) -> float:
        return 2.0 + recipe.hardening.psnr_steps  # type: ignore[attr-defined]

    monkeypatch.setattr("robustcodec.lab.hardening_estimate.seconds_per_step", seconds)
    student = _student(quick(recipes.fast(), 100))
    assert student.hardening is not None
    hardening = dataclasses.replace(student.hardening, psnr_share=0.3, bpp_share=0.3, psnr_steps=8, bpp_steps=60)
    plan = Plan(student=dataclasses.replace(student, hardening=hardening))
    request = Request(run=tmp_path / "run", data=pictures, validation=None, init=TINY, plan=plan)
    found = estimate(request, quiet)
    assert found.hours["student"] == pytest.approx(100 * (2 + (8 + 60) / 2) / 3600)
    assert 10_000 < found.disk < 10_000_000
    assert found.memory > 3 * 96 * 80 * 3
    assert estimate(dataclasses.replace(request, hours=3.0), quiet).hours == {"student": 3.0}


def _student(plan: Plan) -> "recipes.Recipe":
    assert plan.student is not None
    return plan.student


def test_the_command_from_pictures_to_a_model(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(TINY.parent))

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["harden", "--data", "pictures", "--init", "hyper-tiny", *arguments])

    phase = Phase(share=1.0, rate_from=1e-4, rate_to=0.0, batch=3, crop=64)
    plan = Plan(student=dataclasses.replace(_student(quick(recipes.fast(), 2)), phases=(phase,)))
    (tmp_path / "plan.json").write_text(plan.to_json())
    broken = (pictures / "2.png").read_bytes()
    (pictures / "broken.png").write_bytes(broken[: len(broken) // 2])
    asked = ("--recipe", "plan.json", "--epsilon", "1e-3")
    dry = run(*asked, "--dry-run")
    assert dry.exit_code == 0
    assert Plan.from_json(dry.stdout) == with_options(plan, epsilon=1e-3)
    assert re.search(r"student: .* of training, without export, choice and attacks\n", dry.stderr)
    assert "disk " in dry.stderr and not (tmp_path / "hardened").exists()
    done = run(*asked)
    assert done.exit_code == 0
    assert "wrote hardened/model: model hardened" in done.stderr
    assert re.search(r"left out .*broken\.png: ", done.stderr) and "left out 1 of 3 pictures" in done.stderr
    assert re.search(r"strong:psnr +bits per pixel +\d\.\d{3} +\d\.\d{3}\n", done.stderr)
    again = CliRunner().invoke(app, ["harden"])
    assert again.exit_code == 0 and "wrote hardened/model" in again.stderr
    more = CliRunner().invoke(app, ["harden", "--steps", "3"])
    assert isinstance(more.exception, UsageError) and "-o RUN alone" in str(more.exception)
    other = CliRunner().invoke(app, ["harden", "-o", "nowhere"])
    assert isinstance(other.exception, TrainingError) and "no hardening to go on with" in str(other.exception)
    for refused in (run("--method", "ma2023", "--recipe", "plan.json"), run("--hours", "1", "--steps", "2")):
        assert isinstance(refused.exception, UsageError)


def test_a_checkpoint_of_compressai_comes_back_hardened(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates what compressai does while it is imported
        models = pytest.importorskip("compressai.models")
    monkeypatch.chdir(tmp_path)
    start = models.ScaleHyperprior(8, 12)
    known = {name: tensor for name, tensor in load_weights(TINY).items() if not name.endswith(LIMIT)}
    start.load_state_dict({**start.state_dict(), **known})
    start.update()
    torch.save({"epoch": 1, "state_dict": start.state_dict()}, "start.pth.tar")
    student = _student(quick(recipes.fast(), 1))
    assert student.hardening is not None
    hardening = dataclasses.replace(student.hardening, gain_quantile=None)  # CompressAI knows no limits
    Path("plan.json").write_text(Plan(student=dataclasses.replace(student, hardening=hardening)).to_json())

    def run(*arguments: str) -> None:
        done = CliRunner().invoke(app, list(arguments))
        assert done.exit_code == 0, done.exception

    run("harden", "--data", "pictures", "--init", "start.pth.tar", "--recipe", "plan.json", "--measure", "none")
    run("export", "hardened/model", "--to", "compressai", "-q", "4", "-o", "hardened.pth.tar")
    ours = network_of(load_weights(Path("hardened/model")), "ours").requires_grad_(False)
    theirs = models.ScaleHyperprior.from_state_dict(torch.load("hardened.pth.tar", weights_only=True)).eval()
    x = torch.from_numpy(sample(64, 64, 9)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        hardened, before = theirs(x)["x_hat"], start.eval()(x)["x_hat"]
    expected = ours(x, torch.ones(1), round_straight_through, round_straight_through).x_hat
    assert (hardened - expected).abs().max() < 1e-4
    assert not torch.equal(hardened, before)


@pytest.mark.skipif(os.name == "nt", reason="says it otherwise")
def test_no_space_left_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a hardening writes beside its stages: its request, the model, and what measures it."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    tiny = open_bundle(TINY)
    parts = {ANALYSIS: tiny.analysis, SYNTHESIS: tiny.synthesis, ENTROPY: tiny.entropy, LAB: tiny.lab}
    request = Request(run=tmp_path / "run", data=tmp_path, validation=None, init=TINY, plan=recipes.fast())
    for write in (
        request.save,
        lambda: write_bundle(tmp_path / "run" / "model", manifest_document(tiny.manifest), parts),
        lambda: write_pixels(tmp_path / "run" / "measured" / "a.png", sample(8, 8, 1)),
    ):
        with pytest.raises(OutputError, match="No space left on device"):
            write()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_bad_input_is_refused_in_a_sentence(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "a.png").write_bytes(write_picture(Picture(pixels=sample(40, 200, 1)), "PNG"))
    torch.save({"g_a.0.weight": torch.zeros(8, 3, 3, 3), "g_a.1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    shutil.copytree(TINY, tmp_path / "damaged")
    (tmp_path / "damaged" / "lab.safetensors").write_bytes(b"nothing")
    plan = quick(recipes.fast(), 1)
    (tmp_path / "plan.json").write_text(plan.to_json())

    def refusal(data: str, init: str = str(TINY), recipe: str = "plan.json") -> str:
        done = CliRunner().invoke(app, ["harden", "--data", data, "--init", init, "--recipe", recipe])
        assert isinstance(done.exception, RobustcodecError), done.exception
        return str(done.exception)

    assert "empty holds no pictures" in refusal("empty")
    assert "no picture to train on is readable and has 64x64 pixels" in refusal("small")
    assert "other.pth is no network that this release knows" in refusal("pictures", "other.pth", "fast")
    assert "the model in damaged is damaged (lab.safetensors does not match its checksum)" in refusal(
        "pictures", "./damaged", "fast"
    )
    assert "nowhere.pth does not exist" in refusal("pictures", "./nowhere.pth", "fast")
    assert "no model 'nowhere'" in refusal("pictures", "nowhere")
    assert "there is no recipe nowhere.json; there are fast, paper" in refusal("pictures", recipe="nowhere.json")
    assert "nowhere is no folder" in refusal("nowhere")
    # without a training, too
    arguments = ["harden", "--data", "pictures", "--init", str(TINY), "--recipe", "plan.json", "--dry-run"]
    done = CliRunner().invoke(app, [*arguments, "-o", "pictures/run"])
    assert "pictures/run lies in pictures" in str(done.exception)
    assert not done.stdout

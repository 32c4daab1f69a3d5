"""Several processes train what one trains with the whole batch."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from regenerate import sample
from torch import distributed

from robustcodec.bundle import open_bundle
from robustcodec.errors import TrainingError
from robustcodec.images import Picture, write_picture
from robustcodec.lab.adversaries import adversary_of
from robustcodec.lab.data import Pool
from robustcodec.lab.hardening_recipes import Plan
from robustcodec.lab.hyper import Hyper
from robustcodec.lab.losses import Part
from robustcodec.lab.recipe import Hardening, Method, Phase, Recipe
from robustcodec.lab.runs import Run
from robustcodec.lab.smoothness import smoothness
from robustcodec.lab.team import ALONE, Team, _another_failed
from robustcodec.lab.train import Order, train
from robustcodec.lab.training import draw_batch

HARDENING = Hardening(
    method=Method.FAST,
    local_share=0.25,
    local_steps=1,
    psnr_share=0.25,
    bpp_share=0.5,
    smooth=1e-3,
    stability=0.1,
    bpp_steps=2,
)
RECIPE = Recipe(
    steps=3,
    channels=(8, 12),
    quality_low=1.0,
    quality_high=6.0,
    validations=1,
    phases=(Phase(share=1.0, rate_from=1e-4, rate_to=1e-4, batch=4, crop=64),),
    hardening=HARDENING,
)


@pytest.mark.parametrize("count", [2, 4])
def test_parts_of_a_batch_make_up_the_whole(count: int) -> None:
    """Crops, qualities, noise, attacks and projections."""
    torch.manual_seed(0)
    network = Hyper(8, 12)
    pool = Pool.of([sample(96, 80, 1)], 64, torch.device("cpu"))

    def look(part: Part) -> list[torch.Tensor]:
        batch = draw_batch(RECIPE, RECIPE.phases[0], 7, pool, torch.device("cpu"), part)
        attacked = adversary_of(HARDENING)(network, batch)
        smooth = smoothness(network, batch)
        coded = network(batch.x, batch.step, *batch.quantisers())
        found = [batch.x, batch.step, batch.lagrangian, attacked, smooth.bpp, smooth.latents, coded.bits, coded.x_hat]
        return [tensor.detach() for tensor in found]

    parts = [look(Part(index, count)) for index in range(count)]
    for whole, *pieces in zip(look(Part()), *parts, strict=True):
        assert torch.allclose(torch.cat(pieces), whole, rtol=1e-4, atol=1e-6)


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(TrainingError, match="batch of 4 crops cannot be shared out evenly among 3"):
        Team(Part(0, 3)).check(RECIPE)
    ALONE.check(RECIPE)


@pytest.mark.skipif(not distributed.is_available() or not distributed.is_gloo_available(), reason="needs gloo")
@pytest.mark.parametrize("hardening", [None, HARDENING])
def test_two_processes_train_what_one_does(hardening: Hardening | None, tmp_path: Path, tiny_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(3):
        (folder / f"{seed}.png").write_bytes(write_picture(Picture(pixels=sample(96, 80, seed)), "PNG"))
    recipe = dataclasses.replace(RECIPE, hardening=hardening)
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    one, two = Run(tmp_path / "one"), Run(tmp_path / "two")
    train(one, Order(recipe=recipe, data=folder, init=tiny_path), lambda _: None, lambda _: None)
    command = ["train", "--data", folder, "--init", tiny_path, "--recipe", tmp_path / "recipe.json", "-o", two.folder]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    done = subprocess.run([*launcher, "robustcodec", *map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("step 3/3") == one_report(one)
    before, after = one.load(), two.load()
    assert before is not None and after is not None and after.step == 3
    assert [record["step"] for record in two.records()] == [record["step"] for record in one.records()]
    start = torch.cat([tensor.flatten() for tensor in before.weights.values()])
    difference = start - torch.cat([tensor.flatten() for tensor in after.weights.values()])
    assert float(difference.norm() / start.norm()) < 1e-5


LEAVING = """
from pathlib import Path
import torch
from robustcodec.lab.team import joined

with joined() as team:
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    assert team.part.count == 2 and team.agree(True)
left = sorted(path.read_text() for path in Path("/proc/self/task").glob("*/comm"))
assert not any("gloo" in name for name in left), left
"""


@pytest.mark.skipif(not distributed.is_available() or not distributed.is_gloo_available(), reason="needs gloo")
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to see threads")
def test_no_thread_of_the_group_is_left(tmp_path: Path) -> None:
    """One that lets go of a tensor while the interpreter ends aborts the process."""
    (tmp_path / "leaving.py").write_text(LEAVING)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launcher, tmp_path / "leaving.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not distributed.is_available() or not distributed.is_gloo_available(), reason="needs gloo")
def test_a_failure_of_two_processes_is_said_once(tmp_path: Path, tiny_path: Path) -> None:
    """One has no folder to write in; the other waits for it."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "0.png").write_bytes(write_picture(Picture(pixels=sample(96, 80, 0)), "PNG"))
    (tmp_path / "recipe.json").write_text(dataclasses.replace(RECIPE, hardening=None).to_json())
    (tmp_path / "run").write_bytes(b"")
    options = ["--data", folder, "--init", tiny_path, "--recipe", tmp_path / "recipe.json", "-o", tmp_path / "run"]
    command = [sys.executable, "-W", "ignore", "-m", "robustcodec", "train", *map(str, options)]
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun keeps one
    place = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": "2",
    }
    both = [subprocess.Popen(command, env={**place, "RANK": rank}, stderr=subprocess.PIPE, text=True) for rank in "01"]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [1, 1], said
    assert "cannot be written" in said[0] and len(said[0].splitlines()) == 1
    assert said[1] == ""


def test_the_first_to_fail_speaks() -> None:
    store = distributed.HashStore()
    assert [_another_failed(store) for _ in range(3)] == [False, True, True]


@pytest.mark.skipif(not distributed.is_available() or not distributed.is_gloo_available(), reason="needs gloo")
def test_two_processes_harden_in_two_stages(tmp_path: Path, tiny_path: Path) -> None:
    """The second stage reads what the first process wrote last in the first stage, however long that takes it."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "0.png").write_bytes(write_picture(Picture(pixels=sample(96, 80, 0)), "PNG"))
    short = dataclasses.replace(RECIPE, steps=2)
    plan = Plan(
        teacher=dataclasses.replace(short, hardening=Hardening(method=Method.TEACHER, teacher_smooth=1e-3)),
        student=dataclasses.replace(short, hardening=Hardening(method=Method.DISTILLED, psnr_share=0.5, psnr_steps=1)),
    )
    (tmp_path / "plan.json").write_text(plan.to_json())
    (tmp_path / "slow.py").write_text(SLOW)
    options = ["--data", folder, "--init", tiny_path, "--recipe", tmp_path / "plan.json", "--measure", "none"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, tmp_path / "slow.py", "harden", *options, "-o", tmp_path / "run"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("wrote ") == 1
    assert open_bundle(tmp_path / "run" / "model").manifest.variant == "robust"


SLOW = """
import time
from robustcodec.cli import app
from robustcodec.lab.runs import Run

save = Run.save

def slow(run, state):
    time.sleep(1)
    save(run, state)

Run.save = slow
app()
"""
"""The command line on a disk that takes a second for a state."""


def one_report(run: Run) -> int:
    """Lines that one process reports at the last step."""
    return sum(record["step"] == 3 for record in run.records())

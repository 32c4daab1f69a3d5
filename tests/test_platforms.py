"""What other machines lack is hidden here: constriction, all but one processor; the same files come of it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from robustcodec.images import Picture, write_picture

ROOT = Path(__file__).parent.parent

WITHOUT_CONSTRICTION = "sys.modules['constriction'] = None"
ONE_PROCESSOR = "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])"
PROGRAM = """
import hashlib, os, sys
{setting}
from robustcodec.entropy import backend
from robustcodec.cli import main

def run(*arguments):
    sys.argv = ["robustcodec", *arguments, "--quiet"]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code

run("encode", "a.png", "-q", "6", "-m", "{model}")
run("decode", "a.rbc", "-o", "b.png")
print(backend().__name__.rpartition(".")[2], hashlib.sha256(open("a.rbc", "rb").read()).hexdigest())
"""


@pytest.mark.parametrize("model", ["hyper-tiny", "cheng-tiny"])
@pytest.mark.parametrize(
    ("setting", "coder"),
    [
        (WITHOUT_CONSTRICTION, "pure"),
        pytest.param(
            ONE_PROCESSOR, None, marks=pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity")
        ),
    ],
)
def test_the_command_line_elsewhere(
    tmp_path: Path,
    tiny_path: Path,
    make_sample: Callable[..., NDArray[np.uint8]],
    setting: str,
    coder: str | None,
    model: str,
) -> None:
    (tmp_path / "a.png").write_bytes(write_picture(Picture(pixels=make_sample(90, 120, 1)), "PNG"))
    environment = {**os.environ, "ROBUSTCODEC_MODELS": str(tiny_path.parent), "PYTHONPATH": str(ROOT)}
    found = []
    for each in ("", setting):
        command = [sys.executable, "-c", PROGRAM.format(setting=each, model=model)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (tmp_path / "a.rbc").unlink()
        found.append(done.stdout.split())
    usual, there = found
    assert there[1] == usual[1]
    assert coder is None or there[0] == coder

"""What may import what, what a process loads, and what the wheel holds."""

import json
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from robustcodec.images import Picture, write_picture

ROOT = Path(__file__).parent.parent
LAB = ("torch", "torchvision", "compressai", "onnx", "lightning_fabric", "tensorboard", "matplotlib", "scipy", "pandas")


def test_import_contracts() -> None:
    pytest.importorskip("importlinter")
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert " 0 broken." in done.stdout


def test_the_contract_of_the_runtime_names_every_module() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = config["tool"]["importlinter"]["contracts"][0]
    names = {path.stem if path.suffix else path.name for path in (ROOT / "robustcodec").iterdir()}
    modules = {name for name in names if not name.startswith((".", "__")) and name not in ("py", "lab")}
    assert sorted(contract["source_modules"]) == sorted(f"robustcodec.{name}" for name in modules)


def test_a_process_that_encodes_and_decodes_loads_nothing_of_the_lab(
    tmp_path: Path, tiny_path: Path, make_sample: Callable[..., NDArray[np.uint8]]
) -> None:
    (tmp_path / "a.png").write_bytes(write_picture(Picture(pixels=make_sample(40, 56, 1)), "PNG"))
    code = f"""
import json, sys
from robustcodec.cli import main

def run(*arguments):
    sys.argv = ["robustcodec", *arguments]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
    return sorted(name for name in {LAB} if name in sys.modules)

import robustcodec
found = {{
    "encode": run("encode", "a.png", "--psnr", "--quiet", "-m", {str(tiny_path)!r}),
    "decode": run("decode", "a.rbc", "-o", "b.png", "--quiet", "-m", {str(tiny_path)!r}),
    "python": [robustcodec.load({str(tiny_path)!r}).id, *run("info", "a.rbc", "--json")],
}}
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    *_, found = done.stdout.splitlines()
    assert json.loads(found) == {"encode": [], "decode": [], "python": ["hyper-tiny"]}
    assert (tmp_path / "b.png").exists()


def test_the_wheel_holds_what_it_must_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    (wheel,) = tmp_path.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert all(name.startswith("robustcodec/") for name in package)

    source = ROOT / "robustcodec"
    kinds = {".py", ".onnx", ".typed", ".png", ".xml", ".magic"}
    expected = {path.relative_to(ROOT).as_posix() for path in source.rglob("*") if path.suffix in kinds}
    expected |= {path.relative_to(ROOT).as_posix() for path in (source / "data" / "completions").iterdir()}
    weights = {
        path.relative_to(ROOT).as_posix()
        for model in ("hyper-base", "hyper-robust")
        for path in (ROOT / "weights" / model).glob("*")
    }
    assert package == expected | {f"robustcodec/{name}" for name in weights}
    assert "robustcodec/py.typed" in package
    assert "robustcodec/data/sample.png" in package
    assert sum(name.endswith(".onnx") for name in package) == 4 * len(list(source.glob("graphs/*-synthesis.onnx")))
    assert any(name.endswith("licenses/LICENSE") for name in names)

"""The README: its commands run, and its tables say what is there; so does the page about the layout.

`python tests/test_readme.py` writes that page anew.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from robustcodec.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


LAYOUT = ROOT / "docs" / "layout.md"
HEAD = """# Layout

What each module is for, by its docstring's first line. `python tests/test_readme.py` writes this page.
"""


def layout() -> str:
    """A table for each package: its modules, each with the first line of its docstring."""
    parts = [HEAD]
    for package in sorted(path.parent for path in (ROOT / "robustcodec").rglob("__init__.py")):
        parts.append(f"## {package.relative_to(ROOT).as_posix()}\n\n{purpose(package / '__init__.py')}.\n")
        modules = [path for path in sorted(package.glob("*.py")) if path.name != "__init__.py"]
        if modules:
            parts.append(
                "".join(["| | |\n|---|---|\n", *(f"| `{path.name}` | {purpose(path)} |\n" for path in modules)])
            )
    return "\n".join(parts)


def purpose(path: Path) -> str:
    document = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert document, f"{path.relative_to(ROOT)} has no docstring"
    return document.splitlines()[0].removesuffix(".")


def test_the_layout_is_that_of_the_package() -> None:
    found = LAYOUT.read_text(encoding="utf-8")
    assert found == layout(), "a module or its docstring has changed: run python tests/test_readme.py"


def test_the_layout_of_the_readme_is_there() -> None:
    named = re.findall(r"^\| `([^`]+)` \|", README.split("## Layout")[1], re.MULTILINE)
    assert named and all((ROOT / name).exists() for name in named)


@pytest.mark.parametrize(
    ("document", "pattern"), [("README.md", r"^\| `robustcodec (\w+)` \|"), ("docs/cli.md", r"^## (\w.*)$")]
)
def test_every_command_is_documented(document: str, pattern: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    described = {name for found in re.findall(pattern, text, re.MULTILINE) for name in found.split(", ")}
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert commands <= described
    assert document == "docs/cli.md" or described == commands


def test_the_first_command_runs(tmp_path: Path, tiny_path: Path) -> None:
    found = re.search(r"```sh\npip install \. && (.*)\n```", README)
    assert found
    line = f'robustcodec() {{ "{sys.executable}" -m robustcodec "$@"; }}; {found[1]}'
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "ROBUSTCODEC_MODELS": str(tiny_path.parent)}
    done = subprocess.run(
        ["bash", "-euc", line], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"sample\.png -> sample\.rbc: 768x512, .* bytes, .* bpp, quality 4, .* dB", done.stderr)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["decoded.png", "sample.png", "sample.rbc"]


if __name__ == "__main__":
    LAYOUT.write_text(layout(), encoding="utf-8")

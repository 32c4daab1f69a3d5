"""The README: its commands run, and its tables say what is there.

`python tests/test_readme.py` writes the table of the layout anew.
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


def layout() -> list[str]:
    """The table's rows: each module with the first line of its docstring."""
    rows = []
    for path in sorted((ROOT / "robustcodec").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix().removesuffix("__init__.py")
        document = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert document, f"{name} has no docstring"
        rows.append(f"| `{name}` | {document.splitlines()[0].removesuffix('.')} |")
    return rows


def with_layout(readme: str) -> str:
    """The README with the table of the layout as it should be."""
    before, after = readme.split("## Layout")
    table = "\n".join(["|---|---|", *layout(), ""])
    after = re.sub(r"[|]---[|]---[|]\n(?:[|] `.*\n)*", lambda _: table, after, count=1)
    return f"{before}## Layout{after}"


def test_the_layout_is_that_of_the_package() -> None:
    assert with_layout(README) == README, "a module or its docstring has changed: run python tests/test_readme.py"


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
    (ROOT / "README.md").write_text(with_layout(README), encoding="utf-8")

"""Examples in help texts and on the pages of docs/ are commands that there are, with options that they have."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from robustcodec.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOT_COMMAND = typer.main.get_command(app)


def commands(command: typer.core.TyperGroup, *path: str) -> Iterator[tuple[str, str]]:
    """Every command with its help text."""
    for name, each in command.commands.items():
        if isinstance(each, typer.core.TyperGroup):
            yield from commands(each, *path, name)
        else:
            yield " ".join((*path, name)), each.help or ""


def examples(text: str) -> Iterator[list[str]]:
    """Arguments of every call of robustcodec in a text, as a shell would give them."""
    for line in re.findall(r"^.*\brobustcodec [^\n]*", text.replace("\\\n", " "), re.MULTILINE):
        for part in re.split(r"&&|\|(?!\|)|;", line):
            part = re.sub(r"\$\w+", "1", part)  # a variable of the shell
            words = shlex.split(part.replace("'robustcodec", "robustcodec").rstrip("'"), comments=True)
            if "robustcodec" in words[:1]:
                ends = [index for index, word in enumerate(words) if word.startswith((">", "2>"))]
                yield words[1 : min(ends, default=None)]


def check(arguments: list[str]) -> None:
    """Parse arguments as the command line does, without running anything."""
    command, context = ROOT_COMMAND, None
    while isinstance(command, typer.core.TyperGroup):
        context = command.make_context("robustcodec", list(arguments), parent=context)
        if not arguments or arguments[0].startswith("-"):
            return
        _, command, arguments = command.resolve_command(context, arguments)
    command.make_context("robustcodec", list(arguments), parent=context)


@pytest.mark.parametrize(("name", "help"), list(commands(ROOT_COMMAND)))  # type: ignore[arg-type]
def test_help_has_examples_of_the_command(name: str, help: str) -> None:
    found = list(examples(help))
    assert any(arguments[: name.count(" ") + 1] == name.split(" ") for arguments in found)
    for arguments in found:
        check(arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_of_pages_parse(page: Path) -> None:
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for arguments in examples("\n".join(blocks)):
        check(arguments)


def test_what_is_wrong_is_noticed() -> None:
    for wrong in ("encode --nope a.png", "encode -q high a.png", "nope", "models nope", "decode"):
        (arguments,) = examples(f"  cat x | robustcodec {wrong} > b && echo done  # and so on")
        with pytest.raises(Exception, match=r"No such|should be|Missing"):
            check(arguments)

"""Writes docs/options.md and what completes the command line in bash, zsh and fish, from the commands as they are.

`python scripts/command_line.py` (no argument). The completions are static: a TAB starts no Python, unlike with what
`robustcodec --install-completion` sets up.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, get_args, get_origin, get_type_hints

import typer

from robustcodec.cli import app
from robustcodec.data import COMPLETIONS

OPTIONS_PAGE = Path(__file__).parent.parent / "docs" / "options.md"

_PLACES = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
"""What stands for values that have no name of their own, by their type."""

_ENDLESS = 1 << 31
"""Ranges that end beyond it end for the machine's sake."""

_DONE_BY = "# Made by scripts/command_line.py."


@dataclass(frozen=True)
class Option:
    """An option: its names, short first, what stands for its value, what it does in a sentence and in full.

    `value` is empty where none follows; the full help ends in the values that it may have, and the default.
    """

    names: tuple[str, ...]
    value: str
    help: str
    full: str


@dataclass(frozen=True)
class Command:
    """A command: what its help says in a sentence and in full, its arguments and options, the commands below it."""

    name: str
    help: str
    text: str
    arguments: tuple[tuple[str, str], ...]
    options: tuple[Option, ...]
    below: tuple["Command", ...]


def described(command: typer.core.TyperCommand | typer.core.TyperGroup, name: str) -> Command:
    """Read a command and all below it from Typer."""
    options = [
        Option(
            names=tuple(sorted((*each.opts, *each.secondary_opts), key=lambda option: (len(option), option))),
            value="" if each.is_flag or each.count else _value(command.callback, each.name or ""),
            help=_sentence(each.help or ""),
            full=f"{each.help or ''}{_bounds(command.callback, each.name or '', each.help or '')}",
        )
        for each in command.params
        if isinstance(each, typer.core.TyperOption) and not each.hidden
    ]
    below = getattr(command, "commands", {})
    return Command(
        name=name,
        help=_sentence(command.get_short_help_str(200)),
        text=inspect.cleandoc(command.help or ""),
        arguments=tuple(
            (f"{each.metavar}{'...' if each.nargs == -1 else ''}", each.help or "")
            for each in command.params
            if isinstance(each, typer.core.TyperArgument)
        ),
        options=(
            *options,
            Option(("-h", "--help"), "", *("Show this message and exit", "Show this message and exit.")),
        ),
        below=tuple(described(below[each], each) for each in sorted(below)),
    )


def _declared(callback: Callable[..., object] | None, name: str) -> tuple[type, typer.models.ParameterInfo, object]:
    """Give type, declaration and default of a command's parameter, which its function has whatever Typer's release."""
    assert callback is not None
    hint = get_type_hints(callback, include_extras=True)[name]
    kind, info = get_args(hint) if get_origin(hint) is Annotated else (hint, None)
    assert isinstance(info, typer.models.ParameterInfo)
    (kind,) = {*(get_args(kind) or [kind])} - {type(None)}
    return kind, info, inspect.signature(callback).parameters[name].default


def _value(callback: Callable[..., object] | None, name: str) -> str:
    """Give what stands for an option's value: its choices, if they are few."""
    kind, info, _ = _declared(callback, name)
    return info.metavar or ("|".join(kind) if issubclass(kind, StrEnum) else _PLACES[kind])


def _bounds(callback: Callable[..., object] | None, name: str, help: str) -> str:
    """Give the range of an option's values and its default, unless its help has said so."""
    if callback is None or name not in inspect.signature(callback).parameters:
        return ""  # what every command has
    _, info, default = _declared(callback, name)
    ends = info.min is not None and info.max is not None and info.max < _ENDLESS
    said = [f"{info.min:g} to {info.max:g}"] if ends else []
    silent = default in (None, "", inspect.Parameter.empty) or isinstance(default, bool) or "[default" in help
    said += [] if silent else [f"default: {default:g}" if isinstance(default, float) else f"default: {default}"]
    return f" [{'; '.join(said)}]" if said else ""


def _sentence(text: str) -> str:
    return " ".join(text.split()).split(" [default")[0].removesuffix(".")


def options_page(root: Command) -> Iterator[str]:
    """Lines of the page that has every option."""
    yield "# Every option"
    yield ""
    yield "What `robustcodec COMMAND --help` says, by `scripts/command_line.py`; [cli.md](cli.md) explains the rest."
    for path, each in _paths(root):
        yield ""
        yield f"## {' '.join(('robustcodec', *path))}"
        yield ""
        yield from _text(each.text)
        yield "| | |"
        yield "|---|---|"
        yield from (_row(f"`{name}`", help) for name, help in each.arguments)
        for option in each.options:
            *short, last = option.names
            names = ", ".join(f"`{name}`" for name in (*short, f"{last} {option.value}".rstrip()))
            yield _row(names, option.full)


def _row(*cells: str) -> str:
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"


def _text(text: str) -> Iterator[str]:
    """Lines of a help text, with what Click leaves as it is (behind a backspace) as code."""
    for paragraph in text.split("\n\n"):
        as_it_is = paragraph.startswith("\b\n")
        yield from ["```sh", *inspect.cleandoc(paragraph[2:]).splitlines(), "```"] if as_it_is else [paragraph]
        yield ""


def bash(root: Command) -> Iterator[str]:
    """Lines of the file for bash."""
    yield _DONE_BY
    yield f"_{root.name}() {{"
    yield '    local word=${COMP_WORDS[COMP_CWORD]} command="" index words options'
    yield "    for ((index = 1; index < COMP_CWORD; index++)); do"
    yield "        case $command${COMP_WORDS[index]} in"
    for path, _ in _paths(root):
        if path:
            yield f"            {''.join(path)}) command={''.join(path)} ;;"
    yield "        esac"
    yield "    done"
    yield "    case $command in"
    for path, each in _paths(root):
        label = "".join(path) or "''"
        names = " ".join(name for option in each.options for name in option.names if name.startswith("--"))
        yield f'        {label}) words="{" ".join(below.name for below in each.below)}" options="{names}" ;;'
    yield "    esac"
    yield "    if [[ $word == -* ]]; then words=$options; fi"
    yield '    COMPREPLY=($(compgen -W "$words" -- "$word"))'
    yield "}"
    yield f"complete -o default -o bashdefault -F _{root.name} {root.name}"


def zsh(root: Command) -> Iterator[str]:
    """Lines of the file for zsh."""
    yield f"#compdef {root.name}"
    yield _DONE_BY
    for path, each in _paths(root):
        yield f"{_function(root, path)}() {{"
        if each.below:
            yield "    local line state"
            yield "    local -a commands"
            yield "    commands=("
            yield from (f"        '{below.name}:{_quoted(below.help)}'" for below in each.below)
            yield "    )"
        yield "    _arguments -C -S \\"
        for option in each.options:
            once = f"'({' '.join(option.names)})'" if len(option.names) > 1 else ""
            names = f"{{{','.join(option.names)}}}" if len(option.names) > 1 else option.names[0]
            value = ":value:_files" if option.value else ""
            yield f"        {once}{names}'[{_quoted(option.help)}]{value}' \\"
        if each.below:
            yield "        '1: :->command' '*:: :->rest'"
            yield "    case $state in"
            yield "        command) _describe command commands ;;"
            yield "        rest)"
            yield "            case $line[1] in"
            for below in each.below:
                yield f"                {below.name}) {_function(root, (*path, below.name))} ;;"
            yield "            esac ;;"
            yield "    esac"
        else:
            yield "        '*:file:_files'"
        yield "}"
    yield "if [[ $zsh_eval_context[-1] == loadautofunc ]]; then"
    yield f'    _{root.name} "$@"'
    yield "else"
    yield f"    compdef _{root.name} {root.name}"
    yield "fi"


def fish(root: Command) -> Iterator[str]:
    """Lines of the file for fish."""
    yield _DONE_BY
    for path, each in _paths(root):
        seen = [f"__fish_seen_subcommand_from {name}" for name in path]
        below = " ".join(command.name for command in each.below)
        if each.below:
            seen.append(f"not __fish_seen_subcommand_from {below}")
        line = f"complete -c {root.name} -n '{'; and '.join(seen)}'"
        for command in each.below:
            yield f"{line} -f -a {command.name} -d '{_quoted(command.help)}'"
        for option in each.options:
            names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
            yield f"{line} {names}{' -r' if option.value else ''} -d '{_quoted(option.help)}'"


def _paths(command: Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Command]]:
    """A command and all below it, with the words that lead there."""
    yield path, command
    for each in command.below:
        yield from _paths(each, (*path, each.name))


def _function(root: Command, path: tuple[str, ...]) -> str:
    return "_".join(("", root.name, *path)).replace("-", "_")


def _quoted(text: str) -> str:
    """Text within single quotes and, for zsh, within brackets or behind a colon; nothing of it is lost but marks."""
    return text.replace("'", "’").replace("[", "(").replace("]", ")").replace(":", ";").replace("\\", "")


def files() -> dict[Path, str]:
    """All files that this script writes; completions have the names that their shells look for."""
    root = described(typer.main.get_command(app), "robustcodec")  # type: ignore[arg-type]
    made = {
        COMPLETIONS / "robustcodec.bash": bash,
        COMPLETIONS / "_robustcodec": zsh,
        COMPLETIONS / "robustcodec.fish": fish,
        OPTIONS_PAGE: options_page,
    }
    return {path: "\n".join([*make(root), ""]) for path, make in made.items()}


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(__doc__)
    COMPLETIONS.mkdir(exist_ok=True)
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")

"""What the commands say: JSON lines and data on standard output, everything else on standard error."""

import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from robustcodec.errors import MissingExtra, RobustcodecError, UsageError
from robustcodec.files import clean_name, discard, write_stdout

DONE, FAILED, USAGE, CONTRACT = 0, 1, 2, 3
INTERRUPTED, PIPE_CLOSED, TERMINATED = 130, 141, 143

_ERASE = "\r\x1b[K"
"""Takes a terminal back to the start of its line, and clears it."""


def exit_code(error: RobustcodecError) -> int:
    """The exit code of an error that ends a whole command."""
    return USAGE if isinstance(error, UsageError | MissingExtra) else FAILED


@dataclass(frozen=True, kw_only=True)
class Console:
    """Where a command talks, cleaned of control characters: `quiet` leaves only errors and JSON."""

    quiet: bool = False
    json: bool = False

    def note(self, text: str) -> None:
        """Say something on standard error unless quiet."""
        if not self.quiet:
            self._line(text)

    def error(self, text: str) -> None:
        """Say on standard error what went wrong."""
        self._line(f"robustcodec: error: {text}")

    @property
    def live(self) -> bool:
        """Whether standard error is a terminal, where lines can be replaced."""
        return _on_terminal()

    def progress(self, done: int, total: int) -> None:
        """Show a counter that the next line replaces; only a terminal sees it."""
        if done < total:
            self.status(f"{done} of {total}")

    def status(self, text: str) -> None:
        """Show a line that the next one replaces; only a terminal sees it."""
        if not self.quiet and _on_terminal():
            _say(f"{_ERASE}{clean_name(text)}")

    def row(self, fields: Mapping[str, object]) -> None:
        """Write one JSON line, if JSON was asked for."""
        if self.json:
            emit(json.dumps({name: _json_value(value) for name, value in fields.items()}, allow_nan=False))

    def _line(self, text: str) -> None:
        start = _ERASE if _on_terminal() else ""  # the progress counter
        _say(f"{start}{clean_name(text)}\n")


def open_streams() -> None:
    """Open standard streams that were closed before the start, lest a file of ours get their number and their data.

    What is said on standard error then goes nowhere; data cannot be read or written, which is an error.
    """
    for name, mode, flags in (("stdin", "r", os.O_WRONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, flags)
            os.set_inheritable(descriptor, True)  # workers need it as much
            setattr(sys, name, os.fdopen(descriptor, mode))


def emit(line: str) -> None:
    """Write one line to standard output. Raises OutputError."""
    try:
        write_stdout(f"{clean_name(line)}\n".encode())
    except BrokenPipeError:
        end_quietly()


def end_quietly() -> NoReturn:
    """Exit as SIGPIPE would: whoever read standard output has gone and wants no message."""
    raise SystemExit(PIPE_CLOSED)


def attributed(name: str, error: str) -> str:
    """An error with the name of its file before it, unless it begins with that name."""
    return error if error.startswith(f"{name} ") else f"{name}: {error}"


def named(path: Path | None, stream: str) -> dict[str, object]:
    """A path as JSON fields: `{stream: name}`, and the exact bytes in base64 if they are not UTF-8."""
    if path is None:
        return {stream: "-"}
    raw = os.fsencode(path)
    try:
        return {stream: raw.decode("utf-8")}
    except UnicodeDecodeError:
        from base64 import b64encode

        name = raw.decode("utf-8", "backslashreplace")
        return {stream: name, f"{stream}_b64": b64encode(raw).decode("ascii")}


def _say(text: str) -> None:
    """Write to standard error; work goes on if whoever read it has gone."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        discard(sys.stderr)


def _json_value(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _json_value(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _on_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and "CI" not in os.environ

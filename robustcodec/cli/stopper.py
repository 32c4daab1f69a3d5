"""Lets long work end well: the first signal asks it to stop, the second one ends the process."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from robustcodec.cli.console import INTERRUPTED, TERMINATED

STOPPED = "stopped"
GOES_ON = f"{STOPPED}; the same command goes on where it was"


@contextmanager
def when_stopped(say: Callable[[], None]) -> Iterator[None]:
    """Say something where a signal ends the work: as Python has it, or as an exit with the code of the signal."""
    try:
        yield
    except KeyboardInterrupt:
        say()
        raise
    except SystemExit as end:
        if end.code in (INTERRUPTED, TERMINATED):
            say()
        raise


@contextmanager
def resumable(begun: Callable[[], bool], note: Callable[[str], None], command: str) -> Iterator[None]:
    """Say how work that has `begun` goes on, where Ctrl-C ends it before it asks for signals, or does not wait."""

    def say() -> None:
        if begun():
            note(how_to_go_on(command))

    with when_stopped(say):
        yield


def how_to_go_on(command: str) -> str:
    """Say by which command stopped work goes on."""
    return f"{STOPPED}; go on with: {command}"


class Stopper:
    """While it is entered, SIGINT and SIGTERM are kept for work that asks for them now and then.

    Before it has asked once, and after a first signal, a signal does what it did before.
    """

    number: int | None = None
    """The signal that came."""

    def __init__(self) -> None:
        self._heeded = False
        self._before: dict[int, Any] = {}

    def asked(self) -> bool:
        """Whether to stop."""
        self._heeded = True
        return self.number is not None

    def __enter__(self) -> "Stopper":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        self.number = number
        if not self._heeded:
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

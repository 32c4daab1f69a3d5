"""Lets long work end well: the first signal asks it to stop, the second one ends the process."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any


@contextmanager
def resumable(begun: Callable[[], bool], note: Callable[[str], None], command: str) -> Iterator[None]:
    """Say how work that has `begun` goes on, where Ctrl-C ends it before it asks for signals, or does not wait."""
    try:
        yield
    except KeyboardInterrupt:
        if begun():
            note(how_to_go_on(command))
        raise


def how_to_go_on(command: str) -> str:
    """Say by which command stopped work goes on."""
    return f"stopped; go on with: {command}"


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

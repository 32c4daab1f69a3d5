"""What a training shows while it runs: a line on the terminal now and then, and TensorBoard's curves."""

import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from robustcodec.errors import TrainingError
from robustcodec.lab.training import Progress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_FOLDER = "tensorboard"


class Reporter:
    """Shows progress through `note` and writes every figure to RUN/tensorboard."""

    def __init__(self, run: Path, note: Callable[[str], None]) -> None:
        self._folder = run / _FOLDER
        self._note = note

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if "_writer" in self.__dict__:
            with suppress(OSError):  # a full disk has been reported, or cost the end of the curves alone
                self._writer.close()

    @cached_property
    def _writer(self) -> "SummaryWriter":
        # made at the first report, when the run's folder stands
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tensorboard warns its programmers about its own imports
            from torch.utils.tensorboard import SummaryWriter
        return SummaryWriter(str(self._folder))

    def report(self, progress: Progress) -> None:
        """Show one report of the training loop."""
        try:
            for name, value in progress.figures.items():
                self._writer.add_scalar(name, value, progress.step)
        except OSError as error:
            raise TrainingError(f"{self._folder} cannot be written: {error.strerror}") from error
        figures = ", ".join(f"{name} {value:.4g}" for name, value in progress.figures.items())
        self._note(f"step {progress.step}/{progress.steps}, {_duration(progress.seconds_left)} left: {figures}")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"

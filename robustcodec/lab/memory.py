"""The memory of the machine: how much of it is free, and a line instead of a traceback where it does not suffice."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from robustcodec.errors import LimitExceeded

_MEMINFO = Path("/proc/meminfo")


@contextmanager
def memory_named(sentence: str) -> Iterator[None]:
    """Raise LimitExceeded with a sentence where torch finds no more memory, on a CPU or on a GPU."""
    try:
        yield
    except RuntimeError as error:  # torch has no class of its own for the processor's memory
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise LimitExceeded(sentence) from error


def available_memory() -> int | None:
    """Give the bytes of main memory that the machine has available; None where the system does not say."""
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)

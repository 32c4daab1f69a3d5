"""Files that one process at a time may hold."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from robustcodec.errors import RobustcodecError

if sys.platform != "win32":
    import fcntl


@contextmanager
def held(path: Path, kind: type[RobustcodecError], *, name: str, busy: str) -> Iterator[None]:
    """Hold a file, which is made with its folder, for this process alone; the system lets go of it when that ends.

    Raises an error of a kind if another process holds it (which is `busy`), or if it (`name`) cannot be written.
    """
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("ab"))
        except OSError as error:
            raise kind(f"{name} cannot be written: {error.strerror}") from error
        if not _lock(file):
            raise kind(f"another process is {busy}; wait for its end or choose another folder")
        yield


def _lock(file: IO[bytes]) -> bool:
    """Lock a file where the system can; False if another process has it."""
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # a file system without locks
    return True

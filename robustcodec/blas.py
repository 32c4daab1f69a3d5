"""How many threads numpy's matrix products take while models compute: one number of the process, for all who ask."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from threading import RLock, get_ident

from threadpoolctl import LibController, ThreadpoolController


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Let matrix products take so many threads, or fewer where somebody else asks for fewer at the same time.

    BLAS libraries know one number for all threads of a process. So those who ask are counted: the first one finds the
    host's number, and when the last one is done it holds again.
    """
    who = object()
    try:
        _asked.add(who, threads)
        yield
    finally:
        _asked.remove(who)


class _Asked:
    """Who asks for how many threads, and what the libraries had before anybody did."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._by: dict[object, tuple[int, int]] = {}
        self._before: list[int] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._lock.acquire, after_in_parent=self._lock.release, after_in_child=self._in_child
            )

    def add(self, who: object, threads: int) -> None:
        with self._lock:
            if not self._by:
                self._before = [library.num_threads for library in _libraries()]
            self._by[who] = get_ident(), threads
            self._apply()

    def remove(self, who: object) -> None:
        with self._lock:
            if self._by.pop(who, None) is not None:
                self._apply()

    def _in_child(self) -> None:
        """Forget the threads that a fork has left behind, which will never be done here."""
        self._lock.release()
        with self._lock:
            if self._by:
                self._by = {who: asked for who, asked in self._by.items() if asked[0] == get_ident()}
                self._apply()

    def _apply(self) -> None:
        least = min((threads for _, threads in self._by.values()), default=None)
        _set(self._before if least is None else [least] * len(self._before))


_asked = _Asked()


@cache
def _libraries() -> Sequence[LibController]:
    libraries: Sequence[LibController] = ThreadpoolController().select(user_api="blas").lib_controllers
    return libraries


def _set(numbers: Sequence[int]) -> None:
    for library, threads in zip(_libraries(), numbers, strict=True):
        if library.num_threads != threads:
            # since 3.8 threadpoolctl lets OpenBLAS obey one Python thread alone, the first to ask, until it resigns;
            # but the last of ours to be done may be any
            resign = getattr(library, "clear_controlling_thread", None)
            if resign is not None:
                resign(force=True)
            library.set_num_threads(threads)
            if resign is not None:
                resign(force=True)

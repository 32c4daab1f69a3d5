"""While models compute, matrix products take as many threads as asked for; afterwards, as many as the host has set."""

import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack

import numpy as np
import pytest
from numpy.typing import NDArray
from regenerate import CHENG, TINY
from threadpoolctl import threadpool_info, threadpool_limits

from robustcodec.blas import limited
from robustcodec.bundle import open_bundle
from robustcodec.codec import Codec
from robustcodec.images import Picture

HOST = 3

pytestmark = pytest.mark.skipif(
    not any(library["user_api"] == "blas" for library in threadpool_info()), reason="no library to set threads of"
)


def now() -> int:
    (number,) = {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}
    assert isinstance(number, int)
    return number


@pytest.fixture(autouse=True)
def host() -> Iterator[None]:
    """A host that has set a number, and in newer releases of threadpoolctl keeps others from setting any."""
    with threadpool_limits(HOST, user_api="blas"):
        yield
        assert now() == HOST


class Asker:
    """Asks for threads, and is done, in a thread of its own."""

    def __init__(self, stack: ExitStack) -> None:
        self._thread = stack.enter_context(ThreadPoolExecutor(1))
        self._asked: list[AbstractContextManager[None]] = []

    def ask(self, threads: int) -> None:
        self._asked.append(limited(threads))
        self._thread.submit(self._asked[-1].__enter__).result()

    def done(self) -> None:
        self._thread.submit(self._asked.pop().__exit__, None, None, None).result()


@pytest.fixture
def askers() -> Iterator[list[Asker]]:
    with ExitStack() as stack:
        yield [Asker(stack) for _ in range(3)]


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_the_least_that_anybody_asks_for_holds_until_the_last_is_done(askers: list[Asker], order: list[int]) -> None:
    wanted = {0: 2, 1: 1, 2: 4}
    for index in wanted:
        askers[index].ask(wanted[index])
    assert now() == 1
    for index in order:
        askers[index].done()
        del wanted[index]
        assert now() == min(wanted.values(), default=HOST)


def test_one_thread_may_ask_again(askers: list[Asker]) -> None:
    for threads in (2, 1, 2):
        askers[0].ask(threads)
    for left in (1, 2, HOST):
        askers[0].done()
        assert now() == left


def test_errors_end_it(askers: list[Asker]) -> None:
    askers[0].ask(2)
    with pytest.raises(KeyError), limited(1):
        assert now() == 1
        raise KeyError
    assert now() == 2
    askers[0].done()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_leaves_other_threads_behind(askers: list[Asker]) -> None:
    def in_child(look: Callable[[], bool]) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's, of threads that are left behind: that is what this is about
            child = os.fork()
        if not child:
            os._exit(0 if look() else 1)
        return os.waitpid(child, 0)[1] == 0

    def counts() -> bool:
        with limited(2):
            inside = now()
        return (inside, now()) == (2, HOST)

    askers[0].ask(1)
    assert in_child(lambda: now() == HOST) and in_child(counts)
    with limited(2):
        assert in_child(lambda: now() == 2)
    askers[0].done()


@pytest.mark.parametrize("threads", [(1, 1), (1, 2)])
def test_models_in_several_threads_leave_the_host_its_own(
    make_sample: Callable[..., NDArray[np.uint8]], threads: tuple[int, int]
) -> None:
    picture = Picture(pixels=make_sample(96, 80, 3))
    codecs = [Codec(open_bundle(path), each) for path, each in zip((TINY, CHENG), threads, strict=True)]
    files = [codec.encode(picture).data for codec in codecs]
    alone = [codec.decode(data).pixels for codec, data in zip(codecs, files, strict=True)]

    def work(codec: Codec, data: bytes) -> NDArray[np.uint8]:
        for _ in range(5):
            assert codec.encode(picture).data == data
        return codec.decode(data).pixels

    with ThreadPoolExecutor(4) as pool:  # two with each model
        assert all(map(np.array_equal, pool.map(work, 2 * codecs, 2 * files), 2 * alone))
    assert now() == HOST

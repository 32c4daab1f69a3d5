"""The batch engine of encode and decode: run one job for each file, report, and find the exit code.

A file that fails does not stop the others, even if it takes its worker process with it.
"""

from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import typer

from robustcodec.cli.console import FAILED, Console, attributed, end_quietly, named
from robustcodec.data import SAMPLE
from robustcodec.errors import RobustcodecError
from robustcodec.files import WHOLE, Job, Plan, Shard, check_streams, clean_name, share
from robustcodec.processors import usable_threads
from robustcodec.words import counted

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

_AHEAD = 2
"""Jobs for each process that are handed out: one in hand, and one so that it need not wait."""

_DIED = "the process that worked on this file died, perhaps for want of memory"


@dataclass(frozen=True)
class Result:
    """What became of one file: fields for the report (see `_describe`), remarks, and whether it was written.

    `figures_of` says what the bytes and all behind them are of, where that is not what the result's name says.
    `failure` says what is wrong with a result, written nevertheless or not; the file counts as failed, and `code` is
    the exit code that it asks for.
    """

    fields: Mapping[str, object]
    notes: tuple[str, ...] = ()
    written: bool = True
    figures_of: str = ""
    failure: str | None = None
    code: int = FAILED


Work = Callable[[Job], Result]
Known = Mapping[Job, Result]
"""What is known of results that exist."""

_NOTHING: Known = MappingProxyType({})


class Task(Hashable, Protocol):
    """What to do with each file: frozen options that travel to worker processes; each prepares once."""

    def prepare(self) -> Work:
        """Load what all files share (the model) and return the function that does one file."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A job and either its result or what went wrong."""

    job: Job
    result: Result = field(default_factory=lambda: Result({}))
    error: str | None = None
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether there is no result, or a faulty one."""
        return self.error is not None or self.result.failure is not None


def process(
    task: Task, plan: Plan, console: Console, *, processes: int, shard: Shard = WHOLE, known: Known = _NOTHING
) -> None:
    """Do all jobs of a plan, or of one shard of it, and report each; exits as those that failed ask for."""
    plan = share(plan, shard)
    check_streams(plan)
    note_skipped(plan, console, known)
    name_unread(plan, console)
    outcomes = []
    for outcome in run(task, plan.jobs, processes):
        outcomes.append(outcome)
        _report(outcome, console)
        console.progress(len(outcomes), len(plan.jobs))
    _summarise(outcomes, plan, console)
    codes = {outcome.result.code for outcome in outcomes if outcome.failed}
    if plan.unread or codes:
        raise typer.Exit(FAILED if plan.unread or FAILED in codes else min(codes))


def note_skipped(plan: Plan, console: Console, known: Known = _NOTHING) -> None:
    """Say which results exist already, and what is known of them."""
    for job in plan.skipped:
        result = known.get(job, Result({}))
        console.note(f"{shown_name(job.target)} exists already, skipped; --overwrite makes it anew")
        for note in result.notes:
            console.note(f"{shown_name(job.target)}: {note}")
        names = named(job.source, "input") | named(job.target, "output")
        console.row(names | {"skipped": True} | dict(result.fields))


def name_unread(plan: Plan, console: Console) -> None:
    """Say which folders could not be read."""
    for each in plan.unread:
        message = f"the folder {clean_name(each.folder)} cannot be read: {each.reason}"
        console.error(message)
        console.row(named(each.folder, "input") | {"error": message})


def run(task: Task, jobs: Sequence[Job], processes: int) -> Iterator[Outcome]:
    """Do the jobs, in this process or in several, and yield their outcomes in the order of the jobs."""
    streams = any(job.source is None or job.target is None for job in jobs)
    if processes == 1 or len(jobs) <= 1 or streams:  # only this process has the standard streams
        if jobs:
            work = task.prepare()
            yield from (_attempt(work, job) for job in jobs)
    else:
        yield from _run_in_pool(task, jobs, min(processes, len(jobs)))


def threads_each(threads: int | None, processes: int) -> int | None:
    """Threads for each of several processes, so that together they use the machine once; None: all of it."""
    if threads is not None or processes == 1:
        return threads
    return max(1, usable_threads() // processes)


def _attempt(work: Work, job: Job) -> Outcome:
    start = perf_counter()
    try:
        result = work(job)
    except RobustcodecError as error:
        return Outcome(job=job, error=str(error))
    except MemoryError:
        return Outcome(job=job, error="this file needs more memory than the machine gives")
    except BrokenPipeError:
        end_quietly()
    return Outcome(job=job, result=result, seconds=perf_counter() - start)


def _run_in_pool(task: Task, jobs: Sequence[Job], processes: int) -> Iterator[Outcome]:
    """Yield outcomes in the order of the jobs, as soon as those before them are there."""
    found: dict[int, Outcome] = {}
    due = 0
    for number, outcome in _as_done(task, jobs, processes):
        found[number] = outcome
        while due in found:
            yield found.pop(due)
            due += 1


def _as_done(task: Task, jobs: Sequence[Job], processes: int) -> Iterator[tuple[int, Outcome]]:
    """Yield the number and the outcome of each job when it is done; a process that dies costs one job."""
    left = deque(range(len(jobs)))
    while left:
        lost = yield from _until_a_death(task, jobs, left, processes)
        # Jobs are begun in their order: the one that killed its worker, and with it the pool, is among the first.
        for _ in range(min(processes, len(lost))):
            number = lost.popleft()
            outcome = _attempt_alone(task, jobs[number])
            yield number, outcome
            if outcome.error == _DIED:
                break
        left.extendleft(reversed(lost))


def _until_a_death(
    task: Task, jobs: Sequence[Job], left: deque[int], processes: int
) -> Generator[tuple[int, Outcome], None, deque[int]]:
    """Take jobs from those that are left and yield what is done; return those that a worker's death left undone."""
    from concurrent.futures import FIRST_COMPLETED, Future, wait
    from concurrent.futures.process import BrokenProcessPool

    pool = _pool(processes)
    begun: dict[Future[Outcome], int] = {}
    try:
        while left or begun:
            while left and len(begun) < _AHEAD * processes:
                begun[pool.submit(_attempt_in_worker, task, jobs[left[0]])] = left[0]
                left.popleft()
            for future in wait(begun, return_when=FIRST_COMPLETED).done:
                outcome = future.result()
                yield begun.pop(future), outcome
    except BrokenProcessPool:
        pass
    finally:
        pool.shutdown(cancel_futures=True)
    lost = deque[int]()
    for future, number in begun.items():
        if not future.cancelled() and future.exception() is None:
            yield number, future.result()
        else:
            lost.append(number)
    return lost


def _attempt_in_worker(task: Task, job: Job) -> Outcome:
    try:
        work = _prepared(task)
    except RobustcodecError as error:
        return Outcome(job=job, error=str(error))
    return _attempt(work, job)


@lru_cache(maxsize=1)
def _prepared(task: Task) -> Work:
    """One model for each worker process, kept for its whole life."""
    return task.prepare()


def _attempt_alone(task: Task, job: Job) -> Outcome:
    from concurrent.futures.process import BrokenProcessPool

    with _pool(1) as pool:
        try:
            return pool.submit(_attempt_in_worker, task, job).result()
        except BrokenProcessPool:
            return Outcome(job=job, error=_DIED)


def _pool(processes: int) -> "ProcessPoolExecutor":
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    # Spawned, not forked: a fork of a process with threads (ONNX Runtime, BLAS) can hang.
    return ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_start_worker)


def _start_worker() -> None:
    import signal
    import warnings

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent deals with it
    warnings.simplefilter("ignore")


def _report(outcome: Outcome, console: Console) -> None:
    job, fields = outcome.job, outcome.result.fields
    names = named(job.source, "input")
    if outcome.error is not None:
        console.error(attributed(shown_name(job.source), outcome.error))
        console.row(names | {"error": outcome.error})
        return
    if not console.json and (outcome.result.written or outcome.result.failure is None):
        verb = "" if outcome.result.written else "would write "
        console.note(
            f"{verb}{shown_name(job.source)} -> {shown_name(job.target)}: {_describe(outcome.result, outcome.seconds)}"
        )
    for note in outcome.result.notes:
        console.note(f"{shown_name(job.source)}: {note}")
    failure = outcome.result.failure
    row = names
    if outcome.result.written or failure is None:
        row = names | named(job.target, "output") | dict(fields) | {"seconds": round(outcome.seconds, 4)}
    if failure is not None:
        console.error(attributed(shown_name(job.source), failure))
        row["error"] = failure
    console.row(row)


def _summarise(outcomes: Sequence[Outcome], plan: Plan, console: Console) -> None:
    count = len(outcomes) + len(plan.skipped) + len(plan.unread)
    if count == 0:
        others = (
            f"other shards have all there is ({counted(plan.elsewhere, 'file')})"
            if plan.elsewhere
            else "no file has a known suffix; name files to take them whatever they are called"
        )
        console.note(f"nothing to do: {others}")
    if count < 2 or console.json:
        return
    done = [outcome.result for outcome in outcomes if not outcome.failed]
    size = sum(value for result in done if isinstance(value := result.fields.get("bytes"), int))
    figures_of = done[0].figures_of if done else ""
    failed = len(outcomes) - len(done) + len(plan.unread)
    console.note(f"{len(done)} done ({figures_of}{size:,} bytes), {len(plan.skipped)} skipped, {failed} failed")


def _describe(result: Result, seconds: float) -> str:
    fields = result.fields
    formats: dict[str, Callable[[object], str]] = {
        "bytes": "{:,} bytes".format,
        "bpp": "{:.3f} bpp".format,
        "quality": "quality {:.3g}".format,
        "psnr": "{:.2f} dB".format,
    }
    parts = [f"{fields['width']}x{fields['height']}"] if "width" in fields else []
    figures = [show(fields[name]) for name, show in formats.items() if fields.get(name) is not None]
    parts.append(f"{result.figures_of}{', '.join([*figures, f'{seconds:.2f} s'])}")
    return ", ".join(parts)


def shown_name(path: Path | None) -> str:
    """A name as messages have it: the sample photograph is no file of the user's, wherever it lies."""
    if path == SAMPLE:
        return "the sample photograph"
    return "-" if path is None else clean_name(path)

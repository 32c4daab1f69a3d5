"""Train one slice of a packed run on a GPU machine: docs/gpu.md says how.

This process only watches. Another one trains; if it dies or hangs it is started again with the plainest kind of
step, unless it refused the pack, and when the time is up this one writes what the latest checkpoint holds, whatever
happened before.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from robustcodec.errors import RobustcodecError
from robustcodec.lab.parcels import MIB, read_parcel, write_parcel

_WATCH_SECONDS = 0.5
_TRIES = 3
_LOG_NAME = "slice.log"
_REFUSED = 3
"""Exit code of a training process that found before its first step what another try would find too."""


def main() -> int:
    started = time.monotonic()
    arguments = _arguments()
    try:
        if arguments.until is None:
            return _watch(arguments, started)
        return _train(arguments)
    except RobustcodecError as error:
        print(f"gpu_slice: {error}", flush=True)
        return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train one slice of a packed run; docs/gpu.md says how.")
    parser.add_argument("--pack", type=Path, default=Path(__file__).parent, help="the pack (default: beside this file)")
    parser.add_argument("--out", type=Path, required=True, help="folder for what the slice leaves")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(tempfile.gettempdir()) / "robustcodec-slice",
        help="folder on this machine's disk for the full state, used again if the machine is kept",
    )
    parser.add_argument("--slice-minutes", type=float, default=10.0, help="this process ends within that time")
    parser.add_argument("--slices-left", type=int, help="slices to the end of the schedule (default: as planned)")
    parser.add_argument("--eager", action="store_true", help="do not record steps as CUDA graphs")
    parser.add_argument("--max-file", type=float, default=15.0, help="MiB; larger files are split")
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)  # for the process that trains
    return parser.parse_args()


def _watch(arguments: argparse.Namespace, started: float) -> int:
    """Keep a training process going until shortly before the end; then write what there is."""
    seconds = arguments.slice_minutes * 60
    closing = min(30.0, seconds / 4)
    until = started + seconds - closing
    kill_at = until + closing / 2
    patience = max(120.0, seconds / 4)
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = arguments.out / _LOG_NAME
    log.write_bytes(b"")
    code: int | None = 1
    for attempt in range(_TRIES):
        if attempt:
            _say(log, "starting again, with eager steps")
        code = _run(arguments, until, kill_at, patience, log, eager=arguments.eager or attempt > 0)
        if code == _REFUSED and attempt == 0:
            _say(log, "nothing was trained in this slice")
            return 1
        if code in (0, _REFUSED) or time.monotonic() > until:
            break
    from robustcodec.lab.slices import finish_slice

    files = finish_slice(read_parcel(arguments.pack), arguments.work)
    if not files:
        _say(log, "nothing was trained in this slice")
        return 1
    write_parcel(arguments.out, files, piece=int(arguments.max_file * MIB))
    _say(log, f"left {sum(map(len, files.values())) / MIB:.1f} MiB after {time.monotonic() - started:.0f} s")
    return 0 if code == 0 else 2


def _run(
    arguments: argparse.Namespace, until: float, kill_at: float, patience: float, log: Path, *, eager: bool
) -> int | None:
    """Let a process train; None if it had to be killed: at the end of the time, or after a long silence."""
    command = [sys.executable, "-u", __file__, *sys.argv[1:], "--until", repr(until)]
    position = log.stat().st_size
    with log.open("ab") as output:
        process = subprocess.Popen(
            command + ["--eager"] * eager, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
    try:
        import robustcodec.lab.slices  # noqa: F401 (takes seconds, which are short at the end)

        heard = time.monotonic()
        while process.poll() is None:
            time.sleep(_WATCH_SECONDS)
            position, grown = _show(log, position)
            heard = max(heard, time.monotonic() if grown else 0.0, _last_written(arguments.work))
            if time.monotonic() > kill_at or time.monotonic() - heard > patience:
                _say(log, "the training process is killed: out of time or silent")
                return None
        _show(log, position)
        return process.returncode
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _train(arguments: argparse.Namespace) -> int:
    from robustcodec.lab.slices import train_slice

    begun: list[bool] = []
    try:
        train_slice(
            read_parcel(arguments.pack),
            arguments.work,
            until=arguments.until,
            slice_seconds=arguments.slice_minutes * 60,
            slices_left=arguments.slices_left,
            record=not arguments.eager,
            announce=lambda line: print(line, flush=True),
            begin=lambda: begun.append(True),
        )
    except RobustcodecError as error:
        print(f"gpu_slice: {error}", flush=True)
        return 1 if begun else _REFUSED
    return 0


def _last_written(work: Path) -> float:
    """When a file of the working folder was last written, by the monotonic clock."""
    times = [entry.stat().st_mtime for entry in os.scandir(work)] if work.is_dir() else []
    return time.monotonic() - max(0.0, time.time() - max(times)) if times else 0.0


def _show(log: Path, position: int) -> tuple[int, bool]:
    """Copy what was added to the log to stdout; give its new length and whether anything was added."""
    with log.open("rb") as file:
        file.seek(position)
        added = file.read()
    sys.stdout.write(added.decode(errors="replace"))
    sys.stdout.flush()
    return position + len(added), bool(added)


def _say(log: Path, line: str) -> None:
    """Print a line and keep it in the log."""
    print(line, flush=True)
    with log.open("a") as file:
        file.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())

"""Times a folder of thumbnails against the networks alone: `python benchmarks/folder.py --bundle weights/hyper-base`.

Cuts thumbnails out of the sample photograph, encodes and decodes the folder by one command each, with as many jobs as
there are processors, and says which share of the networks' own pixels per second that is: of as many processes with one
thread each that do nothing but run the networks on such thumbnails, right before and right after the command. The share
of processor time is the same of the seconds that processors worked, which other work on the machine disturbs less;
writing to a slow disk does not show in it. Unix only.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from robustcodec.bundle import open_bundle
from robustcodec.codec import Codec
from robustcodec.data import SAMPLE
from robustcodec.images import Picture, read_picture, write_picture
from robustcodec.processors import usable_threads
from robustcodec.rate import STEP_UNIT

ROOT = Path(__file__).parent.parent
SIDE = 256
BAR = 0.85


@dataclass(frozen=True)
class Rate:
    """Pixels per second of the clock, and per second of one processor's work."""

    clock: float
    work: float


@dataclass(frozen=True)
class Result:
    """A folder of pictures and the networks alone, doing the same."""

    what: str
    folder: Rate
    networks: Rate


def thumbnails(count: int) -> Iterator[Picture]:
    """Parts of the sample photograph, from places that are the same in every run."""
    pixels = read_picture(SAMPLE.read_bytes(), 1 << 20).pixels
    generator = np.random.default_rng(0)
    for _ in range(count):
        top, left = (int(generator.integers(0, side - SIDE + 1)) for side in pixels.shape[:2])
        yield Picture(pixels=np.ascontiguousarray(pixels[top : top + SIDE, left : left + SIDE]))


@cache
def _opened(bundle: Path) -> Codec:
    return Codec(open_bundle(bundle), threads=1)


def run_networks(what: str, bundle: Path, seconds: float) -> Rate:
    """Run in a worker: what encoding or decoding has of networks and integer layers, again and again."""
    codec = _opened(bundle)
    architecture = codec._architecture
    (strip,) = codec._prepare(next(thumbnails(1))).strips
    x = np.random.default_rng(0).random((3, SIDE, SIDE), np.float32)
    y_hat = np.rint(strip.y / 4) * np.float32(4 / STEP_UNIT)

    def once() -> None:
        if what == "encode":
            z = architecture.side_information(architecture.analyse(x))
        else:
            z = strip.z
            architecture.synthesise(y_hat)
        _ = architecture.conditions(z, *strip.y.shape[1:]).scales  # type: ignore[attr-defined]

    with codec._at_work():
        once()
        start, work, count = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - start < seconds:
            once()
            count += 1
    pixels = count * SIDE**2
    return Rate(pixels / (time.perf_counter() - start), pixels / (time.process_time() - work))


def networks(pool: ProcessPoolExecutor, what: str, bundle: Path, seconds: float, processes: int) -> Rate:
    """Run the networks in all processes at once."""
    rates = [each.result() for each in [pool.submit(run_networks, what, bundle, seconds) for _ in range(processes)]]
    return Rate(sum(rate.clock for rate in rates), sum(rate.work for rate in rates) / processes)


def command(*arguments: str, pixels: int) -> Rate:
    """Run a command on a folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    before, start = _worked(), time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "robustcodec", *arguments, "--quiet"], env=environment, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed")
    return Rate(pixels / seconds, pixels / (_worked() - before))


def _worked() -> float:
    """Seconds that processors worked for commands that have ended, and for the processes that these had started."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(options: argparse.Namespace, folder: Path) -> Iterator[Result]:
    """Encode a folder, then decode it."""
    (folder / "in").mkdir()
    for index, picture in enumerate(thumbnails(options.count)):
        (folder / "in" / f"{index:05}.png").write_bytes(write_picture(picture, "PNG"))
    pixels, bundle = options.count * SIDE**2, options.bundle.resolve()
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for what, source, target in (("encode", "in", "coded"), ("decode", "coded", "out")):
            places = ("-r", str(folder / source), "-o", str(folder / target), "-m", str(bundle), "--threads", "1")
            before = networks(pool, what, bundle, options.seconds, options.jobs)
            unguarded = ("--on-violation", "off") if what == "encode" else ()  # what the networks alone do, too
            whole = command(what, *places, *unguarded, "--jobs", str(options.jobs), pixels=pixels)
            after = networks(pool, what, bundle, options.seconds, options.jobs)
            yield Result(what, whole, Rate((before.clock + after.clock) / 2, 2 / (1 / before.work + 1 / after.work)))


def main() -> None:
    """Print a table; exits with 1 if a share is below the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2000, help="thumbnails [2000]")
    parser.add_argument("--jobs", type=int, default=usable_threads(), help="processes [all usable processors]")
    parser.add_argument(
        "--seconds", type=float, default=10, help="that the networks run alone, twice for each row [10]"
    )
    options = parser.parse_args()
    print(f"{options.count} thumbnails of {SIDE}x{SIDE}, --jobs {options.jobs}, load {os.getloadavg()[0]:.1f}\n")
    print("| | megapixels per s | networks alone | share | share of processor time | bar |\n|---|---|---|---|---|---|")
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        for each in measure(options, Path(folder)):
            share, of_work = (getattr(each.folder, kind) / getattr(each.networks, kind) for kind in ("clock", "work"))
            missed |= share < BAR
            print(
                f"| {each.what} | {each.folder.clock / 1e6:.3f} | {each.networks.clock / 1e6:.3f} | {share:.1%} "
                f"| {of_work:.1%} | {BAR:.0%} |",
                flush=True,
            )
    sys.exit(missed)


if __name__ == "__main__":
    main()

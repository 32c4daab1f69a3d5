"""Memory and time of large pictures: `python benchmarks/large.py --bundle weights/hyper-base --megapixels 1 16 100`.

Makes pictures of noise over gradients, encodes and decodes each as a command of its own, PNG read and written, and
prints the most that the process had in memory (as the operating system says) beside what the formula of
docs/reliability.md promises, and the time per pixel, without that of a picture of 16x16. Linux only.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from robustcodec import guard, memory
from robustcodec.bundle import open_bundle
from robustcodec.codec import Codec
from robustcodec.container import unpack
from robustcodec.images import Picture, write_picture
from robustcodec.policy import DEFAULT_GUARD
from robustcodec.rate import DEFAULT_TARGET

ROOT = Path(__file__).parent.parent
LIMIT = 2 << 30
"""Bytes that no command may take."""
SPREAD = 0.15
"""How much the times per pixel of one command may differ, in units of the least."""


@dataclass(frozen=True)
class Run:
    """What one command took; `start` are the seconds that it takes for any picture."""

    what: str
    megapixels: float
    seconds: float
    peak: int
    promised: int
    start: float = 0.0

    @property
    def per_pixel(self) -> float:
        """Microseconds for each pixel."""
        return (self.seconds - self.start) / self.megapixels


def make_picture(megapixels: float) -> Picture:
    """A picture of 3:2 with gradients and texture; noise alone would be no picture."""
    width = math.ceil(math.sqrt(megapixels * 1.5e6))
    height = round(megapixels * 1e6 / width)
    generator = np.random.default_rng(0)
    pixels = np.empty((height, width, 3), np.uint8)
    columns = np.arange(width)[None, :, None]
    for top in range(0, height, 256):
        rows = np.arange(top, min(top + 256, height))[:, None, None]
        waves = 90 * np.sin(columns / 97 + rows / 61 + np.arange(3)) + 25 * np.sin(columns * rows / 9e4)
        noise = generator.integers(-12, 13, (rows.shape[0], width, 3))
        pixels[top : top + 256] = np.clip(128 + waves + noise, 0, 255)
    return Picture(pixels=pixels)


def timed(*arguments: str) -> tuple[float, int]:
    """Run a command in a process of its own: seconds, and bytes in memory at most."""
    # a process inherits the peak of the one that made it as its resource usage, but not as the peak of its own memory
    code = """
import re, runpy, sys
sys.argv = ["robustcodec", *sys.argv[1:]]
try:
    runpy.run_module("robustcodec", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print(1024 * int(re.search(r"VmHWM:\\s+([0-9]+) kB", open("/proc/self/status").read())[1]))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    command = [sys.executable, "-c", code, *arguments, "--quiet"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed")
    return seconds, int(done.stdout)


def runs(megapixels: float, codec: Codec, folder: Path, threads: int) -> list[Run]:
    """Encode and decode one size."""
    source, file, decoded = (folder / name for name in ("a.png", "a.rbc", "b.png"))
    picture = make_picture(megapixels)
    width, height = picture.width, picture.height
    source.write_bytes(write_picture(picture, "PNG"))
    del picture
    options = ("-m", str(codec.bundle.path), "--threads", str(threads))
    encode = timed("encode", str(source), "-o", str(file), *options)
    data = file.read_bytes()
    promised = memory.to_decode(unpack(data).header, len(data), codec.demand)
    decode = timed("decode", str(file), "-o", str(decoded), *options)
    return [
        Run("encode", megapixels, *encode, guard.memory_to_encode(codec, width, height, DEFAULT_TARGET, DEFAULT_GUARD)),
        Run("decode", megapixels, *decode, promised),
    ]


def main() -> None:
    """Print a table; exits with 1 if a command took more than was promised, or than 2 GiB, or time grew with size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 4, 16, 64, 100])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    codec = Codec(open_bundle(arguments.bundle), threads=1)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        tries = [runs(256e-6, codec, Path(folder), arguments.threads) for _ in range(3)]
    starts = [min(run.seconds for run in each) for each in zip(*tries, strict=True)]
    per_pixel: dict[str, list[float]] = {"encode": [], "decode": []}
    print("| | megapixels | s | µs per pixel | peak, MB | promised, MB |\n|---|---|---|---|---|---|")
    for megapixels in arguments.megapixels:
        with tempfile.TemporaryDirectory() as folder:
            for measured, start in zip(runs(megapixels, codec, Path(folder), arguments.threads), starts, strict=True):
                run = replace(measured, start=start)
                failed |= run.peak > min(run.promised, LIMIT)
                per_pixel[run.what].append(run.per_pixel)
                print(
                    f"| {run.what} | {run.megapixels:g} | {run.seconds:.1f} | {run.per_pixel:.2f} "
                    f"| {run.peak / 1e6:,.0f} | {run.promised / 1e6:,.0f} |",
                    flush=True,
                )
    for what, times in per_pixel.items():
        spread = max(times) / min(times) - 1
        failed |= spread > SPREAD
        print(f"\n{what}: times per pixel differ by {spread:.1%}, of {SPREAD:.0%} at most; start {starts.pop(0):.2f} s")
    sys.exit(failed)


if __name__ == "__main__":
    main()

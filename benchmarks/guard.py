"""Measures the guard: what its check costs, what each effort gains, and what it says of the pictures of a folder.

    python benchmarks/guard.py cost -m weights/hyper-base photos
    python benchmarks/guard.py effort -m weights/hyper-base photos
    python benchmarks/guard.py verdicts -m weights/hyper-base photos --on-violation fallback

`cost` compares with and without the check in turn, so that other work on the machine slows both: read the ratios. The
bar is 1.1 times analysis and synthesis, and what else encoding without the guard takes. `effort` gives bits per pixel,
PSNR and J of each effort at some qualities, the Bjøntegaard rate over effort 0 (with robustcodec[lab]) and the seconds.
`verdicts` counts how results stand and on which rung they end. One line of JSON each, on standard output.
"""

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from robustcodec import guard as guards
from robustcodec.bundle import find
from robustcodec.codec import Codec
from robustcodec.files import PICTURE_FORMATS
from robustcodec.images import Picture, read_picture
from robustcodec.metrics import bits_per_pixel, psnr
from robustcodec.policy import Guard, OnViolation
from robustcodec.rate import Quality, score
from robustcodec.tiling import Region
from robustcodec.transforms import analyse, synthesise


def pictures(arguments: argparse.Namespace) -> Iterator[tuple[str, Picture]]:
    files = sorted(path for path in arguments.folder.rglob("*") if path.suffix.lower() in PICTURE_FORMATS)
    for path in files[:: arguments.every]:
        picture = read_picture(path.read_bytes(), 1 << 28)
        if arguments.crop:
            side = arguments.crop
            picture = Picture(pixels=np.ascontiguousarray(picture.pixels[:side, :side]))
        yield path.name, picture


def seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def fastest(codec: Codec, picture: Picture, repeat: int) -> dict[str, float]:
    """Seconds of each part, the least of some runs that take turns."""
    architecture, pixels = codec._architecture, picture.pixels
    height, width = pixels.shape[:2]
    whole = Region(0, 0, width, height)
    y = np.rint(analyse(architecture, pixels, 0, height)).astype(np.int32) * 1024
    calls = {
        "analysis": lambda: analyse(architecture, pixels, 0, height),
        "synthesis": lambda: synthesise(architecture, lambda first, last: y[:, first:last], height, width, whole),
        "plain": lambda: codec.encode(picture),
        "guarded": lambda: guards.encode(codec, picture),
    }
    found: dict[str, list[float]] = {each: [] for each in calls}
    for _ in range(repeat):
        for each, call in calls.items():
            found[each].append(seconds(call))
    return {each: min(values) for each, values in found.items()}


def cost(codec: Codec, arguments: argparse.Namespace) -> None:
    ratios = []
    for name, picture in pictures(arguments):
        best = fastest(codec, picture, arguments.repeat)
        rest = best["plain"] - best["analysis"]
        ratios.append((best["guarded"] - rest) / (best["analysis"] + best["synthesis"]))
        print(json.dumps({"picture": name, **best, "over_networks": ratios[-1]}), flush=True)
    print(json.dumps({"pictures": len(ratios), "median_over_networks": statistics.median(ratios), "bar": 1.1}))


def effort(codec: Codec, arguments: argparse.Namespace) -> None:
    curves: dict[int, list[tuple[float, float]]] = {}
    for level in range(4) if arguments.level is None else (0, arguments.level):
        for quality in arguments.qualities:
            bpp, decibels, spent = [], [], []
            for _, picture in pictures(arguments):
                start = time.perf_counter()
                encoded = codec.encode(picture, Quality(quality), measure=True, effort=level)
                spent.append(time.perf_counter() - start)
                assert encoded.reconstruction is not None
                bpp.append(bits_per_pixel(len(encoded.data), picture.width, picture.height))
                decibels.append(psnr(picture.pixels, encoded.reconstruction))
            point = statistics.mean(bpp), statistics.mean(decibels)
            curves.setdefault(level, []).append(point)
            row = {"effort": level, "quality": quality, "bpp": point[0], "psnr": point[1]}
            print(json.dumps({**row, "J": score(*point, quality), "seconds": statistics.mean(spent)}), flush=True)
    if len(arguments.qualities) < 4:
        return
    import bjontegaard

    rates, fidelities = zip(*curves[0], strict=True)
    for level in sorted(curves)[1:]:
        other_rates, other_fidelities = zip(*curves[level], strict=True)
        gain = bjontegaard.bd_rate(rates, fidelities, other_rates, other_fidelities, method="akima")
        print(json.dumps({"effort": level, "bd_rate": gain}))


def verdicts(codec: Codec, arguments: argparse.Namespace) -> None:
    counts: Counter[str] = Counter()
    guard = Guard(
        on_violation=OnViolation(arguments.on_violation), min_psnr=arguments.min_psnr, max_bpp=arguments.max_bpp
    )
    for name, picture in pictures(arguments):
        found = guards.encode(codec, picture, Quality(arguments.quality), guard)
        verdict = found.verdict
        counts[verdict.status] += 1
        counts[f"rung {verdict.rung}"] += verdict.rung is not None
        print(
            json.dumps({"picture": name, "bytes": len(found.encoded.data), **_finite(verdict.document())}), flush=True
        )
    print(json.dumps({"pictures": sum(counts[each] for each in guards.Status), **counts}))


def _finite(document: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value == float("inf") else value for name, value in document.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "effort", "verdicts"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("-m", "--model")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--every", type=int, default=1, help="take every n-th picture")
    parser.add_argument("--crop", type=int, help="take the upper left corner of so many pixels")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--level", type=int, help="compare this effort alone with none")
    parser.add_argument("--qualities", type=float, nargs="+", default=[1, 2, 3, 4, 5, 6])
    parser.add_argument("--quality", type=float, default=4.0)
    parser.add_argument("--on-violation", default="warn")
    parser.add_argument("--min-psnr", type=float)
    parser.add_argument("--max-bpp", type=float)
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        sys.exit(f"{arguments.folder} is no folder")
    codec = Codec(find(arguments.model), arguments.threads)
    {"cost": cost, "effort": effort, "verdicts": verdicts}[arguments.what](codec, arguments)


if __name__ == "__main__":
    main()

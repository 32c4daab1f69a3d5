"""Measures the guard: what its check costs, what each effort gains, and what it says of the pictures of a folder.

    python benchmarks/guard.py cost -m weights/hyper-base photos
    python benchmarks/guard.py effort -m weights/hyper-base photos
    python benchmarks/guard.py verdicts -m weights/hyper-base photos --on-violation fallback
    python benchmarks/guard.py screens -m weights/hyper-base

`cost` compares with and without the check in turn, so that other work on the machine slows both: read the ratios. The
bar is 1.1 times analysis and synthesis, and what else encoding without the guard takes. `effort` gives bits per pixel,
PSNR and J of each effort at some qualities, the Bjøntegaard rate over effort 0 (with robustcodec[lab]) and the seconds.
`verdicts` counts how results stand, what they break and on which rung they end, of each folder apart. `screens` does
the same for drawn pictures that stand for screenshots: text in windows, bars, curves. One line of JSON each, on
standard output.
"""

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

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
            top, left = (max(0, side - arguments.crop) // 2 for side in picture.pixels.shape[:2])
            own = picture.pixels[top : top + arguments.crop, left : left + arguments.crop]
            picture = Picture(pixels=np.ascontiguousarray(own))
        yield str(path.relative_to(arguments.folder)), picture


def clock(arguments: argparse.Namespace) -> Callable[[], float]:
    """Give what seconds are measured by."""
    return time.process_time if arguments.processor else time.perf_counter


def fastest(codec: Codec, picture: Picture, repeat: int, now: Callable[[], float]) -> dict[str, float]:
    """Seconds of each part, the least of some runs that take turns."""
    architecture, pixels = codec._architecture, picture.pixels
    height, width = pixels.shape[:2]
    whole = Region(0, 0, width, height)
    y = np.rint(analyse(architecture, pixels, 0, height)).astype(np.int32) * 1024
    calls: dict[str, Callable[[], object]] = {
        "analysis": lambda: analyse(architecture, pixels, 0, height),
        "synthesis": lambda: synthesise(architecture, lambda first, last: y[:, first:last], height, width, whole),
        "plain": lambda: codec.encode(picture),
        "guarded": lambda: guards.encode(codec, picture),
    }
    found: dict[str, list[float]] = {each: [] for each in calls}
    for _ in range(repeat):
        for each, call in calls.items():
            start = now()
            call()
            found[each].append(now() - start)
    return {each: min(values) for each, values in found.items()}


def cost(codec: Codec, arguments: argparse.Namespace) -> None:
    ratios = []
    for name, picture in pictures(arguments):
        best = fastest(codec, picture, arguments.repeat, clock(arguments))
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
                start = clock(arguments)()
                encoded = codec.encode(picture, Quality(quality), measure=True, effort=level)
                spent.append(clock(arguments)() - start)
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
    judged(codec, arguments, pictures(arguments))


def screens(codec: Codec, arguments: argparse.Namespace) -> None:
    judged(codec, arguments, ((f"screens/{seed}", Picture(pixels=screen(seed))) for seed in range(40)))


def judged(codec: Codec, arguments: argparse.Namespace, each: Iterator[tuple[str, Picture]]) -> None:
    counts: dict[str, Counter[str]] = {}
    guard = Guard(
        on_violation=OnViolation(arguments.on_violation), min_psnr=arguments.min_psnr, max_bpp=arguments.max_bpp
    )
    kept: Path | None = arguments.output
    lines = kept.read_text().splitlines() if kept is not None and kept.exists() else []
    known = {row["picture"]: row for row in map(json.loads, lines)}
    for name, picture in each:
        row = known.get(name)
        if row is None:
            found = guards.encode(codec, picture, Quality(arguments.quality), guard)
            row = {"picture": name, "bytes": len(found.encoded.data), **_finite(found.verdict.document())}
            if kept is not None:
                with kept.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        of_folder = counts.setdefault(str(Path(name).parent), Counter())
        of_folder.update(["pictures", row["status"], *row["broken"]])
        of_folder.update([f"rung {row['rung']}"] if row["rung"] else [])
        print(json.dumps(row), flush=True)
    for folder, of_folder in counts.items():
        print(json.dumps({"folder": folder, **of_folder}))


def screen(seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Draw windows with text, bars or curves, 640 x 400."""
    generator = np.random.default_rng(seed)
    image = Image.new("RGB", (640, 400), tuple(generator.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        left, top = (int(generator.integers(0, most)) for most in (360, 220))
        dark = bool(generator.integers(2))
        paper, ink = ((30, 30, 34), (220, 220, 220)) if dark else ((250, 250, 250), (20, 20, 20))
        draw.rectangle((left, top, left + 280, top + 180), paper, (128, 128, 128))
        draw.rectangle((left, top, left + 280, top + 16), tuple(generator.integers(0, 256, 3).tolist()))
        kind = generator.integers(3)
        for row in range(12):
            y, colour = top + 24 + 12 * row, tuple(generator.integers(0, 256, 3).tolist())
            if kind == 0:
                draw.text((left + 8, y), "".join(generator.choice(list("etaoin shrdlu(){}=.,"), 40)), ink)
            elif kind == 1:
                draw.rectangle((left + 8, y, left + 8 + int(generator.integers(10, 260)), y + 8), colour)
            else:
                heights = top + 100 + np.cumsum(generator.integers(-6, 7, 54)).clip(-70, 70)
                draw.line([(left + 5 + 5 * x, int(height)) for x, height in enumerate(heights)], colour)
    return np.array(image)


def _finite(document: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value == float("inf") else value for name, value in document.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "effort", "verdicts", "screens"))
    parser.add_argument("folder", type=Path, nargs="?", default=Path())
    parser.add_argument("-m", "--model")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--every", type=int, default=1, help="take every n-th picture")
    parser.add_argument("--crop", type=int, help="take the centre, of so many pixels a side")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--processor", action="store_true", help="measure processor time, on a busy machine")
    parser.add_argument("--level", type=int, help="compare this effort alone with none")
    parser.add_argument("--qualities", type=float, nargs="+", default=[1, 2, 3, 4, 5, 6])
    parser.add_argument("--quality", type=float, default=4.0)
    parser.add_argument("--on-violation", default="warn")
    parser.add_argument("-o", "--output", type=Path, help="of verdicts: keep the lines here, and make none again")
    parser.add_argument("--min-psnr", type=float)
    parser.add_argument("--max-bpp", type=float)
    arguments = parser.parse_intermixed_args()
    if not arguments.folder.is_dir():
        sys.exit(f"{arguments.folder} is no folder")
    codec = Codec(find(arguments.model), arguments.threads)
    {"cost": cost, "effort": effort, "verdicts": verdicts, "screens": screens}[arguments.what](codec, arguments)


if __name__ == "__main__":
    main()

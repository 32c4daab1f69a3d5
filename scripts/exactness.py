"""What docs/exactness.md says of real pictures: files decoded by another process, their sizes, and how targets are met.

    python scripts/exactness.py $DATA/kodak -m hyper-base --weights runs/base -o results

Every picture goes through `robustcodec encode` and `robustcodec decode`, two processes, and through this one, which
compares bytes and pixels; then come qualities 1 to 6 and the targets below. Exits with 1 if anything named in `FLAWS`
occurs. `--round-trip` leaves it at the first part. `--weights` (a run, needs the lab) adds what exactness costs
against the network's own probabilities.
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

import numpy as np

from robustcodec.architectures import open_architecture
from robustcodec.bundle import find
from robustcodec.codec import Codec
from robustcodec.container import DEFAULT_LIMITS
from robustcodec.errors import TargetError
from robustcodec.images import Picture, read_picture
from robustcodec.measure import ideal_length
from robustcodec.metrics import psnr
from robustcodec.rate import BitsPerPixel, FileSize, Psnr, Quality, Target, score

QUALITIES = (1, 2, 3, 4, 5, 6)
SIZE_TARGETS: tuple[BitsPerPixel | FileSize, ...] = (BitsPerPixel(0.3), BitsPerPixel(0.8), FileSize(30_000))
PSNR_TARGETS = (Psnr(29), Psnr(32))

FLAWS = {
    "bytes": "another process wrote another file",
    "pixels": "another process decoded other pixels",
    "length": "a file more than 1 % above the ideal code length of its symbols",
    "growth": "a file that is no larger than that of the quality below",
    "size": "a file above its target, or more than 1 % below it",
    "psnr": "a fidelity more than 0.1 dB from its target",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of PNG files")
    parser.add_argument("-m", "--model", default="hyper-base")
    parser.add_argument("--weights", type=Path, help="run, bundle or checkpoint that the model was exported from")
    parser.add_argument("--round-trip", action="store_true", help="compare files and pixels alone, at quality 4")
    parser.add_argument("--threads", type=int, default=1, help="threads of the process that decodes")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for files and rows; goes on there")
    options = parser.parse_args()

    encoded, decoded, results = (options.output / name for name in ("encoded", "decoded", "rows.jsonl"))
    run(1, "encode", "-r", str(options.data), "-o", str(encoded), "-m", options.model, "--on-violation", "off")
    run(options.threads, "decode", "-r", str(encoded), "-o", str(decoded), "-m", options.model)
    rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()] if results.exists() else []
    done = {row["picture"] for row in rows}
    paths = [path for path in sorted(options.data.glob("*.png")) if path.name not in done]
    codec = Codec(find(options.model), threads=1)
    costs = code_lengths(options.weights, codec, paths) if options.weights else repeat({})
    for path, cost in zip(paths, costs, strict=False):
        files = (encoded / path.name).with_suffix(".rbc"), decoded / path.name
        row = (round_trip if options.round_trip else examine)(codec, path, *files) | cost
        rows.append(row)
        with results.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(row)}\n")
        print(path.name, " ".join(row["flaws"]) or "as it should be", file=sys.stderr, flush=True)
    print("\n".join(summary_of_round_trips(rows) if options.round_trip else summary(rows)))
    sys.exit(any(row["flaws"] for row in rows))


def read(path: Path) -> Picture:
    return read_picture(path.read_bytes(), DEFAULT_LIMITS.max_pixels, as_is=True)


def run(threads: int, *arguments: str) -> None:
    command = [sys.executable, "-m", "robustcodec", *arguments, "--quiet", "--threads", str(threads)]
    subprocess.run(command, check=True)


def round_trip(codec: Codec, path: Path, encoded: Path, decoded: Path) -> dict[str, Any]:
    """Compare what the two commands made of one picture with what is made of it here."""
    picture, shown = read(path), read(decoded).pixels
    again = codec.encode(picture, Quality(4), measure=True)
    assert again.reconstruction is not None
    flaws = {
        "bytes": encoded.read_bytes() != again.data,
        "pixels": not np.array_equal(shown, again.reconstruction),
    }
    return {
        "picture": path.name,
        "psnr": psnr(picture.pixels, shown),
        "bpp": 8 * len(again.data) / (picture.width * picture.height),
        "flaws": [name for name in flaws if flaws[name]],
    }


def summary_of_round_trips(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield f"{len(rows)} pictures"
    for name in ("bytes", "pixels"):
        yield f"{FLAWS[name]}: {sum(name in row['flaws'] for row in rows)}"
    bpp, decibels = (float(np.mean([row[name] for row in rows])) for name in ("bpp", "psnr"))
    yield f"quality 4: {bpp:.4f} bpp, {decibels:.3f} dB, J {score(bpp, decibels, 4):.4f}"


def examine(codec: Codec, path: Path, encoded: Path, decoded: Path) -> dict[str, Any]:
    """Measure one picture; `encoded` and `decoded` are what the two commands made of it."""
    picture = read(path)
    architecture = open_architecture(codec.bundle, codec.threads)
    files = {quality: codec.encode(picture, Quality(quality), measure=quality == 4) for quality in QUALITIES}
    shown = read(decoded).pixels
    excess = {q: 8 * len(files[q].data) / ideal_length(architecture, files[q].data) - 1 for q in QUALITIES}
    sizes = [len(files[quality].data) for quality in QUALITIES]
    below = [share_below(codec, picture, target) for target in SIZE_TARGETS]
    off = [distance(codec, picture, target) for target in PSNR_TARGETS]
    flaws = {
        "bytes": encoded.read_bytes() != files[4].data,
        "pixels": not np.array_equal(shown, files[4].reconstruction),
        "length": max(excess.values()) > 0.01,
        "growth": any(small >= large for small, large in pairwise(sizes)),
        "size": not all(0 <= share <= 0.01 for share in below),
        "psnr": not all(decibels is None or abs(decibels) <= 0.1 for decibels in off),
    }
    return {
        "picture": path.name,
        "psnr": psnr(picture.pixels, shown),
        "sizes": sizes,
        "excess": [excess[quality] for quality in QUALITIES],
        "below_target": below,
        "off_target_db": off,
        "flaws": [name for name in FLAWS if flaws[name]],
    }


def share_below(codec: Codec, picture: Picture, target: BitsPerPixel | FileSize) -> float:
    """Which share of the bytes that a target allows is left over; negative if there are more."""
    pixels = picture.width * picture.height
    allowed = target.size if isinstance(target, FileSize) else math.floor(target.value * pixels / 8)
    return 1 - len(codec.encode(picture, target).data) / allowed


def distance(codec: Codec, picture: Picture, target: Psnr) -> float | None:
    """By how many decibels a target is exceeded; None where it is refused, since no step of the model gets there."""
    try:
        shown = codec.encode(picture, target, measure=True).reconstruction
    except TargetError:
        return None
    assert shown is not None
    return psnr(picture.pixels, shown) - target.decibels


def code_lengths(weights: Path, codec: Codec, paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Bits per pixel of the middle of each picture under each kind of probabilities, at step 1."""
    from dataclasses import asdict

    from robustcodec.lab.checkpoints import load_weights
    from robustcodec.lab.code_lengths import code_lengths

    pictures = (read(path).pixels for path in paths)
    for lengths in code_lengths(load_weights(weights), codec.bundle, pictures):
        yield {"code_length": asdict(lengths)}


def summary(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield f"{len(rows)} pictures"
    for name, meaning in FLAWS.items():
        yield f"{meaning}: {sum(name in row['flaws'] for row in rows)}"
    for index, quality in enumerate(QUALITIES):
        ideal = sum(row["sizes"][index] / (1 + row["excess"][index]) for row in rows)
        total = sum(row["sizes"][index] for row in rows)
        worst = max(rows, key=lambda row: row["excess"][index])
        yield (
            f"quality {quality}: {total} bytes, {total / ideal - 1:.3%} above the ideal code length; "
            f"worst {worst['excess'][index]:.3%} ({worst['sizes'][index]} bytes)"
        )
    targets: tuple[Target, ...] = (*SIZE_TARGETS, *PSNR_TARGETS)
    for index, target in enumerate(targets):
        if index < len(SIZE_TARGETS):
            found = [row["below_target"][index] for row in rows]
            yield f"{target}: {min(found):.3%} to {max(found):.3%} below"
        else:
            answers = [row["off_target_db"][index - len(SIZE_TARGETS)] for row in rows]
            met = [answer for answer in answers if answer is not None]
            yield f"{target}: {min(met):+.3f} to {max(met):+.3f} dB off; {len(answers) - len(met)} refused as too high"
    if "code_length" in rows[0]:
        for name in rows[0]["code_length"]:
            yield f"{name}: {np.mean([row['code_length'][name] for row in rows]):.6f} bits per pixel"
        cost = [row["code_length"]["exact"] / row["code_length"]["rounded_scale"] - 1 for row in rows]
        yield f"exactness costs {np.mean(cost):.5%}, at worst {max(cost):.5%}"


if __name__ == "__main__":
    main()

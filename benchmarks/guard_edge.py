"""What the guard lets pass of attacks that know nothing of it, and how little of their noise takes the ladder.

    robustcodec evaluate ... -o results
    python benchmarks/guard_edge.py results -m weights/hyper-robust -o edge.jsonl

takes the attacked pictures of that model that `results` holds, and adds shares of their noise to the clean pictures:
whoever can try a guard as often as he likes gives it as much as it lets pass. Of the shares that are `ok`, the one with
the lowest PSNR(x, x_hat*), or with the most bytes where the attack is on the size, is the worst that passes; the least
share whose plain result breaks what the ladder is for is the least noise that takes it. Noise is given as PSNR(x, x*),
a loss as PSNR(x, x_hat) less PSNR(x, x_hat*), all of the network alone, before anything falls back. Goes on where it
was stopped; prints a Markdown table.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from guard_fallback import SIGNS, attacked, read

from robustcodec import guard as guards
from robustcodec.bundle import find
from robustcodec.codec import Codec
from robustcodec.images import Picture
from robustcodec.metrics import psnr
from robustcodec.pixels import Pixels
from robustcodec.rate import Quality

SHARES = 16


def looked(codec: Codec, clean: Pixels, pixels: Pixels, quality: float) -> dict[str, Any]:
    found = guards.encode(codec, Picture(pixels=pixels), Quality(quality))
    shown = found.encoded.reconstruction
    assert shown is not None
    return {
        "bytes": len(found.encoded.data),
        "psnr": psnr(clean, shown),
        "noise": None if np.array_equal(clean, pixels) else psnr(clean, pixels),
        "ok": found.verdict.status is guards.Status.OK,
        "ladder": bool(set(found.verdict.broken) - SIGNS),
        "suspicion": found.verdict.suspicion,
    }


def row(codec: Codec, attack: str, quality: float, name: str, noisy: Path, clean: Path) -> dict[str, Any]:
    x = read(clean)
    noise = read(noisy).astype(np.int16) - x
    shares = np.linspace(0, 1, SHARES + 1)
    seen = [looked(codec, x, (x + np.rint(share * noise)).astype(np.uint8), quality) for share in shares]
    passing = [each for each in seen if each["ok"]]
    worst = max(passing, key=lambda each: each["bytes"] if "-bpp" in attack else -each["psnr"], default=None)
    forcing = next((each for each in seen if each["ladder"]), None)
    return {"attack": attack, "picture": name, "clean": seen[0], "whole": seen[-1], "worst": worst, "forcing": forcing}


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| attack | pictures | ok as it is | worst that is ok: noise, dB | dB lost | at most | bpp / clean | at most | take the ladder | with noise of, dB | the least |"  # noqa: E501
    yield "|" + "---|" * 11
    for attack in dict.fromkeys(each["attack"] for each in rows):
        own = [each for each in rows if each["attack"] == attack]
        passed = [each for each in own if each["worst"] and each["worst"]["noise"]]
        lost = [each["clean"]["psnr"] - each["worst"]["psnr"] for each in passed]
        grown = [each["worst"]["bytes"] / each["clean"]["bytes"] for each in passed]
        forced = [each["forcing"]["noise"] for each in own if each["forcing"]]
        yield (
            f"| {attack} | {len(own)} | {sum(each['whole']['ok'] for each in own)} | "
            f"{_of(statistics.mean, [each['worst']['noise'] for each in passed])} | {_of(statistics.mean, lost)} | "
            f"{_of(max, lost)} | {_of(statistics.mean, grown)} | {_of(max, grown)} | {len(forced)} | "
            f"{_of(statistics.mean, forced)} | {_of(max, forced)} |"
        )


def _of(what: Any, values: list[float]) -> str:
    return f"{what(values):.2f}" if values else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="take every n-th picture of each attack")
    parser.add_argument(
        "--attacks", nargs="+", default=["paper", "strong"], help="how the names of those to take begin"
    )
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    codec = Codec(find(arguments.model), arguments.threads)
    kept: Path = arguments.output
    done = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    known = {(each["attack"], each["picture"]): each for each in done}
    rows = []
    for results in arguments.results:
        wanted = attacked(results, codec.bundle.fingerprint.hex(), arguments.every, tuple(arguments.attacks))
        for attack, quality, name, noisy, clean in wanted:
            if (attack, name) not in known:
                known[attack, name] = row(codec, attack, quality, name, noisy, clean)
                with kept.open("a") as file:
                    file.write(json.dumps(known[attack, name]) + "\n")
            rows.append(known[attack, name])
    print(f"{codec.bundle.id} ({codec.bundle.fingerprint.hex()}), {len(rows)} attacked pictures\n")
    for line in table(rows):
        print(line)


if __name__ == "__main__":
    main()

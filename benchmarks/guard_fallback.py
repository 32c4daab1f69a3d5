"""What the guard's fallback makes of attacked pictures, checked by another process, and what refinement makes of them.

    robustcodec evaluate ... -o results
    python benchmarks/guard_fallback.py results -m weights/hyper-robust -o guarded

takes the attacked pictures of that model that `results` holds (`--every 3`: each third of them, `--attacks paper`: of
that attack), encodes each with `--on-violation fallback` and the contract of the model, and decodes all files by
`robustcodec decode` in a process of its own with another number of threads: every output has to keep the contract
there. Each attacked picture is encoded once more with `--effort 0` and with `--effort 2`, without the guard. Sizes are
in units of the clean file's. Writes rows.jsonl into -o, and goes on where it was stopped; prints Markdown tables.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robustcodec import guard as guards
from robustcodec.bundle import find
from robustcodec.codec import Codec
from robustcodec.contract import read_contract
from robustcodec.details import added, block_errors, describe
from robustcodec.images import Picture, read_picture
from robustcodec.metrics import psnr
from robustcodec.pixels import Pixels
from robustcodec.policy import Guard, OnViolation
from robustcodec.rate import Quality

EFFORT = 2
SIGNS = {"expected_rate"}
"""What makes a result suspicious without breaking a floor or a cap."""


def read(path: Path) -> Pixels:
    return read_picture(path.read_bytes(), 1 << 28).pixels


def attacked(
    results: Path, fingerprint: str, every: int, wanted: tuple[str, ...]
) -> Iterator[tuple[str, float, str, Path, Path]]:
    """Give the attack, if its name begins as wanted, the quality, the name, the attacked picture and the clean one."""
    rows = [json.loads(line) for line in (results / "results.jsonl").read_text().splitlines()]
    own = [row for row in rows if row["fingerprint"] == fingerprint]
    clean = {row["picture"]["name"]: row["image"] for row in own if not row["attack"]}
    for attack, group in _groups(own):
        for row in group[::every] if attack.startswith(wanted) else ():
            name = row["picture"]["name"]
            yield attack, row["quality"], name, results / row["image"], results / clean[name]


def _groups(rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    named: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["attack"]:
            folder = Path(row["image"]).parent.name
            named.setdefault(folder.split("-e")[0], []).append(row)
    yield from named.items()


def row(codec: Codec, attack: str, quality: float, name: str, paths: tuple[Path, Path], folder: Path) -> dict[str, Any]:
    pixels, clean = (read(path) for path in paths)
    picture, target = Picture(pixels=pixels), Quality(quality)
    found = guards.encode(codec, picture, target, Guard(on_violation=OnViolation.FALLBACK))
    file = folder / f"{attack}-{name}.rbc"
    file.write_bytes(found.encoded.data)
    before = len(codec.encode(Picture(pixels=clean), target).data)
    efforts = {}
    for effort in (0, EFFORT):
        encoded = codec.encode(picture, target, measure=True, effort=effort)
        assert encoded.reconstruction is not None
        efforts[str(effort)] = {
            "size": len(encoded.data) / before,
            "psnr": psnr(clean, encoded.reconstruction),
            "own": psnr(pixels, encoded.reconstruction),
        }
    shown = found.encoded.reconstruction
    assert shown is not None
    return {
        "attack": attack,
        "picture": name,
        "image": str(paths[0]),
        "file": file.name,
        "size": len(found.encoded.data) / before,
        "psnr": min(psnr(clean, shown), 100.0),
        "verdict": {**found.verdict.document(), "psnr": min(found.verdict.psnr, 100.0), "worst_block": None},
        "efforts": efforts,
    }


def checked(rows: list[dict[str, Any]], folder: Path, codec: Codec, threads: int) -> int:
    """Decode all files in another process; give how many of the pictures it makes keep the contract.

    Sizes are the same everywhere, so that what the encoder found of them holds.
    """
    files = [str(folder / each["file"]) for each in rows]
    pictures = folder / f"decoded-{threads}"
    options = ["-o", f"{pictures}/", "-m", str(codec.bundle.path), "--threads", str(threads), "--overwrite", "--quiet"]
    subprocess.run([sys.executable, "-m", "robustcodec", "decode", *files, *options], check=True)
    contract = read_contract(codec.bundle.manifest.contract)
    assert contract is not None
    kept = 0
    for each in rows:
        given, there = (read(path) for path in (Path(each["image"]), pictures / f"{Path(each['file']).stem}.png"))
        expected = contract.expect(describe(given), codec.bundle.manifest.step(each["quality"]))
        worse = expected.shortfalls(psnr(given, there), 0.0, block_errors(given, there), added(given, there))
        kept += not set(each["verdict"]["broken"]) - SIGNS and max(worse.values()) <= 1
    return kept


def tables(rows: list[dict[str, Any]], kept: dict[str, int]) -> Iterator[str]:
    yield "| attack | pictures | as they are | by rung | lossless | keep the contract elsewhere | size, median of clean | PSNR(x, x̂*) | PSNR(x*, x̂*) | tries |"  # noqa: E501
    yield "|" + "---|" * 10
    for attack in dict.fromkeys(each["attack"] for each in rows):
        own = [each for each in rows if each["attack"] == attack]
        rungs = Counter(each["verdict"]["rung"] for each in own if each["verdict"]["rung"])
        plain = sum(each["verdict"]["rung"] is None for each in own)
        yield (
            f"| {attack} | {len(own)} | {plain} | {', '.join(f'{n} {rung}' for rung, n in rungs.most_common())} | "
            f"{rungs['lossless']} | {kept[attack]} of {len(own)} | "
            f"{statistics.median(each['size'] for each in own):.2f} | "
            f"{_mean(each['psnr'] for each in own)} | {_mean(each['verdict']['psnr'] for each in own)} | "
            f"{_mean(each['verdict']['tries'] for each in own)} |"
        )
    yield ""
    yield "| attack | effort 0: bpp of clean | PSNR(x, x̂*) | PSNR(x*, x̂*) | effort 2: bpp of clean | PSNR(x, x̂*) | PSNR(x*, x̂*) |"  # noqa: E501
    yield "|" + "---|" * 7
    for attack in dict.fromkeys(each["attack"] for each in rows):
        own = [each for each in rows if each["attack"] == attack]
        values = [
            _mean(each["efforts"][effort][figure] for each in own)
            for effort in ("0", str(EFFORT))
            for figure in ("size", "psnr", "own")
        ]
        yield f"| {attack} | " + " | ".join(values) + " |"


def _mean(values: Iterator[float]) -> str:
    return f"{statistics.mean(values):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="take every n-th picture of each attack")
    parser.add_argument("--attacks", nargs="+", default=[""], help="how the names of those to take begin")
    parser.add_argument("--threads", type=int, default=1, help="for encoding")
    parser.add_argument("--other", type=int, default=2, help="threads of the process that decodes")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    codec = Codec(find(arguments.model), arguments.threads)
    kept_rows = arguments.output / "rows.jsonl"
    done = [json.loads(line) for line in kept_rows.read_text().splitlines()] if kept_rows.exists() else []
    known = {(each["attack"], each["picture"]): each for each in done}
    rows = []
    fingerprint, wanted = codec.bundle.fingerprint.hex(), tuple(arguments.attacks)
    for attack, quality, name, *paths in attacked(arguments.results, fingerprint, arguments.every, wanted):
        if (attack, name) not in known:
            known[attack, name] = row(codec, attack, quality, name, (paths[0], paths[1]), arguments.output)
            with kept_rows.open("a") as file:
                file.write(json.dumps(known[attack, name]) + "\n")
        rows.append({**known[attack, name], "quality": quality})
    groups = {attack: [each for each in rows if each["attack"] == attack] for attack in {r["attack"] for r in rows}}
    kept = {attack: checked(own, arguments.output, codec, arguments.other) for attack, own in groups.items()}
    print(f"{codec.bundle.id} ({codec.bundle.fingerprint.hex()}), {len(rows)} attacked pictures\n")
    for line in tables(rows, kept):
        print(line)


if __name__ == "__main__":
    main()

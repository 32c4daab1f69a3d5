"""Times the codec against CompressAI's public calls on the same network, threads and pictures, as ratios.

    python benchmarks/codec.py --bundle weights/hyper-base --pictures photos/*.png

Both sides run in turn, each pair within a second or so, so that other work on the machine slows both: read the
ratios, not the seconds. A ratio is the median over all pairs; the quotient of the two fastest runs stands beside it.
Needs robustcodec[lab].
"""

import argparse
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnxruntime
import torch

from robustcodec import entropy, networks
from robustcodec.architectures import Group, hyper, residual
from robustcodec.bundle import Bundle, open_bundle
from robustcodec.codec import Codec
from robustcodec.entropy import TableSet
from robustcodec.images import Picture, read_picture, write_picture
from robustcodec.lab.checkpoints import weights_of_bundle
from robustcodec.lab.interop import compressai_model, write_for_compressai
from robustcodec.metrics import psnr
from robustcodec.processors import usable_threads
from robustcodec.rate import STEP_UNIT, Quality
from robustcodec.strips import quantised, walk

THEIR_PROCESS = """
import sys, struct
import numpy, torch
from PIL import Image
from compressai import models
checkpoint, source, target, threads, name = sys.argv[1:]
torch.set_num_threads(int(threads))
model = getattr(models, name).from_state_dict(torch.load(checkpoint, weights_only=True)).eval()
pixels = numpy.asarray(Image.open(source).convert("RGB"))
x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
with torch.inference_mode():
    coded = model.compress(x)
with open(target, "wb") as file:
    file.write(struct.pack("<HH", *coded["shape"]))
    for (string,) in coded["strings"]:
        file.write(struct.pack("<I", len(string)) + string)
"""
"""What a user of CompressAI writes to encode a picture whose sides are multiples of 64."""

THEIR_UNIT = 64

MAX_PIXELS = 1 << 26


@dataclass(frozen=True)
class Bars:
    """What is asked of an architecture, as text, and CompressAI's name for it.

    `inside` are the functions that count as networks in the shares, beside ONNX Runtime's calls.
    """

    theirs: str
    process: str
    encode: str
    decode: str
    beside_encode: str
    beside_decode: str
    inside: tuple[tuple[Any, str], ...]


BARS = {
    "hyper": Bars("ScaleHyperprior", "<= 1/6", "<= 0.85", "<= 0.85", "<= 10 %", "<= 10 %", ((hyper, "apply"),)),
    "cheng": Bars("Cheng2020Anchor", "", "<= 1/2", "<= 1/5", "", "<= 35 %", ((residual.Synthesis, "synthesise"),)),
}

Call = Callable[[], object]


@dataclass(frozen=True)
class Comparison:
    """Seconds of each run of both sides, in pairs."""

    what: str
    bar: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median over the pairs of our time in units of theirs."""
        return statistics.median(a / b for a, b in zip(self.ours, self.theirs, strict=True))

    @property
    def ratio_of_fastest(self) -> float:
        """Our fastest run in units of their fastest."""
        return min(self.ours) / min(self.theirs)


@dataclass(frozen=True)
class Share:
    """How the time of one kind of call divides; medians over its runs."""

    what: str
    bar: str
    seconds: float
    networks: float
    beside: float
    """Share of the time that is not spent in the networks."""


@dataclass(frozen=True)
class Size:
    """What both sides make of a picture: nearly the same, or they would not run the same network.

    Theirs has no header and no checksums; its tables are Gaussian, ours fitted.
    """

    picture: str
    latents: int
    bytes_ours: int
    bytes_theirs: int
    psnr_ours: float
    psnr_theirs: float


@dataclass(frozen=True)
class Timing:
    """Seconds of each run of something that stands alone."""

    what: str
    bar: str
    seconds: tuple[float, ...]


def main() -> None:
    options = _options()
    bundle = open_bundle(options.bundle)
    torch.set_num_threads(options.threads)
    pictures = [read_picture(path.read_bytes(), MAX_PIXELS) for path in options.pictures]
    for path, picture in zip(options.pictures, pictures, strict=True):
        if picture.width % THEIR_UNIT or picture.height % THEIR_UNIT:
            sys.exit(
                f"{path} has {picture.width}x{picture.height} pixels, and CompressAI's compress() needs multiples of "
                f"{THEIR_UNIT}; crop it"
            )
    step = bundle.manifest.step(options.quality) / STEP_UNIT
    codec = Codec(bundle, options.threads)
    model = compressai_model(weights_of_bundle(bundle), step)
    quality, bars = Quality(options.quality), BARS[bundle.manifest.architecture]
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        comparisons = [
            *compare_processes(bundle, options, step, Path(folder), bars),
            *compare_calls(codec, model, pictures, quality, options.repeats, bars),
        ]
        shares = list(measure_shares(codec, pictures, quality, options.repeats, bars))
        timings = [
            *time_start(options.repeats),
            *time_files(options.pictures, pictures, options.repeats),
            *time_coders(codec, pictures[0], quality, options.repeats),
        ]
        names = [f"{path.stem}, {p.width}x{p.height}" for path, p in zip(options.pictures, pictures, strict=True)]
        sizes = [size(codec, model, *named, quality) for named in zip(names, pictures, strict=True)]
    report = {
        "machine": machine(),
        "model": bundle.id,
        "quality": options.quality,
        "threads": options.threads,
        "repeats": options.repeats,
        "sizes": [asdict(each) for each in sizes],
        "comparisons": [asdict(each) | {"ratio": each.ratio} for each in comparisons],
        "shares": [asdict(each) for each in shares],
        "timings": [asdict(each) for each in timings],
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"{options.threads} threads, quality {options.quality:g}, {bundle.id} ({bundle.fingerprint.hex()})\n")
    print(markdown(sizes, comparisons, shares, timings))


def compare_processes(
    bundle: Bundle, options: argparse.Namespace, step: float, folder: Path, bars: Bars
) -> Iterator[Comparison]:
    """Encode the first picture in a new process: ours from the command line, theirs as a short program."""
    checkpoint = folder / "network.pth.tar"
    write_for_compressai(weights_of_bundle(bundle), step, checkpoint)
    picture = str(options.pictures[0])
    threads = str(options.threads)
    ours = [sys.executable, "-m", "robustcodec", "encode", picture, "-o", str(folder / "ours.rbc"), "--quiet"]
    ours += ["-m", str(bundle.path), "-q", str(options.quality), "--threads", threads]
    theirs = [
        sys.executable,
        "-c",
        THEIR_PROCESS,
        str(checkpoint),
        picture,
        str(folder / "theirs.bin"),
        threads,
        bars.theirs,
    ]
    for guard, bar in (("off", bars.process), ("warn", "")):
        command = [*ours, "--on-violation", guard]
        yield compare(
            f"whole process: encode, guard {guard}",
            bar,
            lambda command=command: _process(command),  # type: ignore[misc]
            lambda: _process(theirs),
            options.repeats,
        )


def compare_calls(
    codec: Codec, model: Any, pictures: Sequence[Picture], quality: Quality, repeats: int, bars: Bars
) -> Iterator[Comparison]:
    """Encode and decode with everything imported and loaded: from pixels in memory to bytes, and back."""
    for what, bar, pairs in (
        ("encode / compress", bars.encode, [_encoders(codec, model, picture, quality) for picture in pictures]),
        ("decode / decompress", bars.decode, [_decoders(codec, model, picture, quality) for picture in pictures]),
    ):
        parts = [compare(what, bar, ours, theirs, repeats) for ours, theirs in pairs]
        yield Comparison(
            what,
            bar,
            tuple(s for part in parts for s in part.ours),
            tuple(s for part in parts for s in part.theirs),
        )


def _encoders(codec: Codec, model: Any, picture: Picture, quality: Quality) -> tuple[Call, Call]:
    return lambda: codec.encode(picture, quality), lambda: model.compress(_tensor(picture))


def _decoders(codec: Codec, model: Any, picture: Picture, quality: Quality) -> tuple[Call, Call]:
    data = codec.encode(picture, quality).data
    coded = model.compress(_tensor(picture))
    return lambda: codec.decode(data), lambda: _pixels(model.decompress(**coded)["x_hat"])


def _tensor(picture: Picture) -> torch.Tensor:
    return torch.from_numpy(picture.pixels).permute(2, 0, 1)[None].float() / 255


def _pixels(x_hat: torch.Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return (x_hat[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def compare(what: str, bar: str, ours: Call, theirs: Call, repeats: int) -> Comparison:
    """Time both calls in turn, after each has run once; which of a pair goes first alternates."""
    ours()
    theirs()
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(repeats):
        for side in (0, 1) if number % 2 else (1, 0):
            seconds[side].append(_seconds((ours, theirs)[side]))
    return Comparison(what, bar, tuple(seconds[0]), tuple(seconds[1]))


class Stopwatch:
    """Adds up the time spent inside the functions that it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Give the function with its time counted."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        return timed


@contextmanager
def watch_networks(inside: Sequence[tuple[Any, str]]) -> Iterator[Stopwatch]:
    """Time ONNX Runtime's calls and some functions, of whatever codec runs inside."""
    watch = Stopwatch()
    with ExitStack() as stack:
        for owner, name in ((networks._Session, "run"), *inside):
            stack.enter_context(mock.patch.object(owner, name, watch.around(getattr(owner, name))))
        yield watch


def measure_shares(
    codec: Codec, pictures: Sequence[Picture], quality: Quality, repeats: int, bars: Bars
) -> Iterator[Share]:
    """Find what encode and decode spend beside their networks."""
    files = [codec.encode(picture, quality).data for picture in pictures]
    calls: dict[str, list[Call]] = {
        "encode": [lambda picture=picture: codec.encode(picture, quality) for picture in pictures],  # type: ignore[misc]
        "decode": [lambda data=data: codec.decode(data) for data in files],  # type: ignore[misc]
    }
    for what, each in calls.items():
        totals, inside, beside = [], [], []
        for call in each * repeats:
            with watch_networks(bars.inside) as watch:
                seconds = _seconds(call)
            totals.append(seconds)
            inside.append(watch.seconds)
            beside.append(1 - watch.seconds / seconds)
        median = statistics.median
        bar = bars.beside_encode if what == "encode" else bars.beside_decode
        yield Share(f"{what}: beside the networks", bar, median(totals), median(inside), median(beside))


def time_start(repeats: int) -> Iterator[Timing]:
    """Time what every command pays."""
    python = [sys.executable]
    yield _time("--help", "< 0.4 s", lambda: _process([*python, "-m", "robustcodec", "--help"]), repeats)
    yield _time("import robustcodec", "", lambda: _process([*python, "-c", "import robustcodec"]), repeats)
    yield _time("python alone", "", lambda: _process([*python, "-c", "pass"]), repeats)


def time_files(paths: Sequence[Path], pictures: Sequence[Picture], repeats: int) -> Iterator[Timing]:
    """Time picture files, which stand beside the calls above."""
    data, picture = paths[0].read_bytes(), pictures[0]
    yield _time("reading the picture's file", "", lambda: read_picture(data, MAX_PIXELS), repeats)
    yield _time("writing a PNG", "", lambda: write_picture(picture, "PNG"), repeats)


def time_coders(codec: Codec, picture: Picture, quality: Quality, repeats: int) -> Iterator[Timing]:
    """Time both implementations of the entropy coder on a picture's latents."""
    groups = latent_groups(codec, picture, quality)
    messages = []
    for name in ("native", "pure"):
        module = importlib.import_module(f"robustcodec.entropy.{name}")

        def encode(module: Any = module) -> bytes:
            encoder = module.Encoder()
            for values, index, tables in groups:
                entropy.encode_group(encoder, values, index, tables)
            return bytes(encoder.finish())

        message = encode()
        messages.append(message)

        def decode(module: Any = module, message: bytes = message) -> None:
            decoder = module.Decoder(message)
            for _, index, tables in groups:
                entropy.decode_group(decoder, index, tables)
            decoder.finish()

        yield _time(f"{name} coder, encoding", "", encode, repeats)
        yield _time(f"{name} coder, decoding", "", decode, repeats)
    assert messages[0] == messages[1]


def latent_groups(codec: Codec, picture: Picture, quality: Quality) -> list[tuple[Any, Any, TableSet]]:
    """Symbols, table indexes and tables of a picture as the codec codes them, whose strips are one."""
    architecture = codec._architecture
    (strip,) = codec._prepare(picture).strips
    step = codec.bundle.manifest.step(quality.value)
    groups = [(strip.z, architecture.side_index(*strip.y.shape[1:]), architecture.z_tables)]

    def note(group: Group) -> Any:
        symbols = quantised(strip.y, group, step, strip.dead_zones)
        groups.append((symbols, group.table, architecture.y_tables))
        return symbols

    walk(strip.conditions.schedule(step), note)
    return groups


def size(codec: Codec, model: Any, name: str, picture: Picture, quality: Quality) -> Size:
    """Encode and decode on both sides."""
    data = codec.encode(picture, quality).data
    coded = model.compress(_tensor(picture))
    return Size(
        name,
        sum(strip.y.size + strip.z.size for strip in codec._prepare(picture).strips),
        len(data),
        sum(len(string) for strings in coded["strings"] for string in strings),
        psnr(picture.pixels, codec.decode(data).pixels),
        psnr(picture.pixels, _pixels(model.decompress(**coded)["x_hat"])),
    )


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "processors": usable_threads(),
        "architecture": platform.machine(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }


def markdown(
    sizes: Sequence[Size], comparisons: Sequence[Comparison], shares: Sequence[Share], timings: Sequence[Timing]
) -> str:
    """Lay out the results as tables."""
    median = statistics.median
    rows = ["| picture | latents | ours, bytes | dB | CompressAI, bytes | dB |", "|---|---|---|---|---|---|"]
    for each in sizes:
        ours = f"{each.bytes_ours:,} | {each.psnr_ours:.2f}"
        rows.append(f"| {each.picture} | {each.latents:,} | {ours} | {each.bytes_theirs:,} | {each.psnr_theirs:.2f} |")
    rows += ["", "| | ours, s | CompressAI, s | ratio | of the fastest | bar |", "|---|---|---|---|---|---|"]
    for c in comparisons:
        times = f"{median(c.ours):.3f} | {median(c.theirs):.3f}"
        rows.append(f"| {c.what} | {times} | {c.ratio:.3f} | {c.ratio_of_fastest:.3f} | {c.bar} |")
    rows += ["", "| | total, s | networks, s | share | bar |", "|---|---|---|---|---|"]
    rows += [f"| {s.what} | {s.seconds:.3f} | {s.networks:.3f} | {s.beside:.1%} | {s.bar} |" for s in shares]
    rows += ["", "| | median, s | fastest, s | bar |", "|---|---|---|---|"]
    rows += [f"| {t.what} | {median(t.seconds):.4f} | {min(t.seconds):.4f} | {t.bar} |" for t in timings]
    return "\n".join(rows)


def _time(what: str, bar: str, call: Call, repeats: int) -> Timing:
    call()
    return Timing(what, bar, tuple(_seconds(call) for _ in range(repeats)))


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _process(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="folder of a hyper or cheng model")
    parser.add_argument(
        "--pictures",
        type=Path,
        nargs="+",
        required=True,
        help=f"sides must be multiples of {THEIR_UNIT}, which compress() needs",
    )
    parser.add_argument("--quality", type=float, default=4.0, help="from 1 to 6 [4]")
    parser.add_argument("--threads", type=int, default=usable_threads(), help="for both [all usable]")
    parser.add_argument("--repeats", type=int, default=7, help="pairs per picture [7]")
    parser.add_argument("--json", type=Path, help="write everything measured here")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Gives hostile input to a codec and says how far it got; anything but a picture or an error of ours is a finding."""

import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import blake2b
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from robustcodec import codec, guard, plain, strips
from robustcodec.bundle import open_bundle
from robustcodec.codec import Codec
from robustcodec.container import File, Limits, Payload, pack, read_header, unpack
from robustcodec.errors import FileFormatError, LimitExceeded, ModelError, RobustcodecError
from robustcodec.images import Picture
from robustcodec.tiling import Region

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from bundles import write_mutant  # noqa: E402
from mutate import Mutant, Seeds, mutant, seeds  # noqa: E402
from regenerate import CHENG, GOLDEN, GOLDEN_CHENG, TINY, dithered, sample  # noqa: E402

LIMITS = Limits(max_pixels=65536)
SECONDS = 2
PICTURE = Picture(pixels=sample(40, 56, 3))
"""What hostile models are to encode."""
MEMORY = 256 << 20
"""Bytes that the process may take: what the formula says for 65536 pixels (164 MB), and the harness with its seeds."""

STAGES = ("header", "chunks", "plain", "plain picture", "coder", "latents", "synthesis", "picture")
"""What input may get through, in this order: a stage counts what ended in it; two are of files that need no model."""

MODEL_STAGES = ("manifest", "parts", "encoding", "decoding", "picture")
"""The same of a model."""


@dataclass
class Tally:
    """Kind and stage of each distinct input, by its hash, and what was found; seconds are of this process."""

    inputs: dict[int, tuple[str, str]] = field(default_factory=dict)
    findings: list[tuple[str, bytes]] = field(default_factory=list)
    slowest: float = 0.0
    seconds: float = 0.0
    memory: int = 0


class Hang(BaseException):
    """The time is up."""


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise Hang after SECONDS of this process, which are fewer than those of a clock where others compute, too."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


class Stages:
    """Watches how far decoding gets."""

    def __init__(self, watched: Iterable[Codec]) -> None:
        self.reached = "header"
        codec.unpack = self._noted("chunks", codec.unpack)
        plain.decompress = self._noted("plain", plain.decompress)
        plain.decode_samples = self._noted("plain", plain.decode_samples)
        strips.make_decoder = self._noted("coder", strips.make_decoder)
        strips._checksum = self._noted("latents", strips._checksum)
        for each in watched:
            architecture = each._architecture
            architecture.synthesise = self._noted("synthesis", architecture.synthesise)  # type: ignore[method-assign]

    def _noted(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*given: Any, **named: Any) -> Any:
            if STAGES.index(stage) > STAGES.index(self.reached):
                self.reached = stage
            return call(*given, **named)

        return noted


class Harness:
    """Codecs under watch and the sound files that hostile ones are made of."""

    def __init__(self) -> None:
        warnings.simplefilter("error")
        self._models = tempfile.TemporaryDirectory()
        dithering = dithered(Path(self._models.name) / "dithered").path
        self.sound: Seeds = seeds([Codec(open_bundle(path), threads=1) for path in (TINY, CHENG, dithering)])
        self.stages = Stages(self.sound.codecs.values())

    def run(self, batch: str, count: int, note: Path | None = None) -> Tally:
        """Try `count` files made from a seed; deterministic. Each is written to `note` before, if that is given."""
        draw, tally, start = random.Random(batch), Tally(), time.process_time()
        for _ in range(count):
            tried = mutant(draw, self.sound)
            if note is not None:
                note.write_bytes(tried.data)
            self.examine(tried, tally)
        tally.seconds = time.process_time() - start
        return tally

    def examine(self, tried: Mutant, tally: Tally) -> None:
        """Decode one file and judge what happens."""
        digest = int.from_bytes(blake2b(tried.data, digest_size=8).digest(), "little")
        if digest in tally.inputs:
            return
        self.stages.reached = "header"
        start = time.process_time()
        fault = None
        try:
            with time_limit():
                fault = self._decode(tried, random.Random(digest))
        except Hang:
            fault = f"no answer within {SECONDS} s"
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # also what constriction raises, which is no Exception
            fault = f"{type(error).__name__}: {error} {_where(error)}"
        tally.slowest = max(tally.slowest, time.process_time() - start)
        tally.memory = max(tally.memory, peak_memory())
        if fault is None and tally.memory > MEMORY:
            fault = f"{tally.memory:,} bytes of memory"
        tally.inputs[digest] = tried.kind, self.stages.reached
        if fault is not None:
            tally.findings.append((f"{tried.kind}: {fault}", tried.data))

    def _decode(self, tried: Mutant, draw: random.Random) -> str | None:
        data, codecs = tried.data, self.sound.codecs
        used = next(iter(codecs.values()))
        try:
            header, _ = read_header(data, LIMITS)
            used = codecs.get(header.fingerprint, used)
            picture = used.decode(data, LIMITS)
        except (FileFormatError, LimitExceeded, ModelError) as error:
            if not str(error) or "\n" in str(error):
                return f"a message of no or several lines: {error}"
            if draw.random() < 0.1:
                self._salvage(used, data)
            return None
        self.stages.reached = "picture" if header.payload is Payload.NETWORK else "plain picture"
        file = unpack(data)
        if tried.wrong:
            return "a picture out of a file that is wrong"
        if pack(file.header, file.chunks) != data:
            return "accepted, but not as it would be written"
        if picture.pixels.shape != (header.height, header.width, 3) or picture.pixels.dtype != np.uint8:
            return f"a picture of {picture.pixels.shape}"
        if draw.random() < 0.1:
            x, y = draw.randrange(header.width), draw.randrange(header.height)
            region = Region(x, y, draw.randint(1, header.width - x), draw.randint(1, header.height - y))
            part = used.decode(data, LIMITS, region=region)
            if not np.array_equal(part.pixels, picture.pixels[region.rows, region.columns]):
                return f"another picture in the region {region}"
        return None

    def _salvage(self, used: Codec, data: bytes) -> None:
        reached = self.stages.reached
        try:
            used.salvage(data, LIMITS)
        except (FileFormatError, LimitExceeded, ModelError):
            pass
        finally:
            self.stages.reached = reached


def run_bundles(batch: str, count: int, note: Path | None = None) -> Tally:
    """Open `count` hostile models made from a seed, and encode and decode with those that open."""
    draw, tally, start = random.Random(batch), Tally(), time.process_time()
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        for _ in range(count):
            kind, digest = write_mutant(draw, folder)
            if note is not None:
                note.write_bytes(_archive(folder))
            if digest not in tally.inputs:
                _examine_bundle(kind, digest, folder, tally)
    tally.seconds = time.process_time() - start
    return tally


def _examine_bundle(kind: str, digest: int, folder: Path, tally: Tally) -> None:
    stage, fault, start = "manifest", None, time.process_time()
    try:
        with time_limit():
            bundle = open_bundle(folder)
            stage = "parts"
            bundle.verify()
            hostile = Codec(bundle, threads=1)
            hostile._architecture.check()
            stage = "encoding"
            for golden in _golden(bundle.manifest.architecture):
                with suppress(FileFormatError):
                    hostile.decode(pack(replace(golden.header, fingerprint=bundle.fingerprint), golden.chunks))
            encoded = guard.encode(hostile, PICTURE).encoded
            stage = "decoding"
            shown = hostile.decode(encoded.data).pixels
            stage = "picture"
            if encoded.reconstruction is not None and not np.array_equal(shown, encoded.reconstruction):
                fault = "another picture than was measured"
    except RobustcodecError as error:
        if not str(error) or "\n" in str(error):
            fault = f"a message of no or several lines: {error}"
    except Hang:
        fault = f"no answer within {SECONDS} s"
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        fault = f"{type(error).__name__}: {error} {_where(error)}"
    tally.slowest = max(tally.slowest, time.process_time() - start)
    tally.memory = max(tally.memory, peak_memory())
    if fault is None and tally.memory > MEMORY:
        fault = f"{tally.memory:,} bytes of memory"
    tally.inputs[digest] = kind, stage
    if fault is not None:
        tally.findings.append((f"model, {kind}: {fault}", _archive(folder)))


@cache
def _golden(architecture: str) -> tuple[File, ...]:
    """Give small sound files of an architecture, none of one that there is none of."""
    names = {"hyper": (GOLDEN / "odd.rbc",), "cheng": (GOLDEN_CHENG / "cheng-wide.rbc",)}
    return tuple(unpack(path.read_bytes()) for path in names.get(architecture, ()))


def peak_memory() -> int:
    """Bytes that this process has had in memory at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"in {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def _archive(folder: Path) -> bytes:
    """The files of a model in one, for a report: names, sizes and contents."""
    contents = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    return repr([(name, len(data)) for name, data in contents.items()]).encode() + b"\n" + b"".join(contents.values())

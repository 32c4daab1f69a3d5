"""Gives hostile input to a codec and says how far it got; anything but a picture or an error of ours is a finding."""

import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from types import FrameType

import numpy as np

from robustcodec import codec, strips
from robustcodec.bundle import open_bundle
from robustcodec.codec import Codec
from robustcodec.container import Limits, pack, read_header, unpack
from robustcodec.errors import FileFormatError, LimitExceeded, ModelError, RobustcodecError
from robustcodec.tiling import Region

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from bundles import write_mutant  # noqa: E402
from mutate import Mutant, Seeds, mutant, seeds  # noqa: E402
from regenerate import GOLDEN, TINY  # noqa: E402

LIMITS = Limits(max_pixels=65536)
SECONDS = 2
MEMORY = 256 << 20
"""Bytes that the process may take: what the formula says for 65536 pixels (164 MB), and the harness with its seeds."""

STAGES = ("header", "chunks", "coder", "latents", "synthesis", "picture")
"""What input may get through, in this order: a stage counts what ended in it."""


@dataclass
class Tally:
    """Kind and stage of each distinct input, by its hash, and what was found."""

    inputs: dict[int, tuple[str, str]] = field(default_factory=dict)
    findings: list[tuple[str, bytes]] = field(default_factory=list)
    slowest: float = 0.0
    memory: int = 0

    @property
    def stages(self) -> Counter[tuple[str, str]]:
        """How many inputs of each kind ended in each stage."""
        return Counter(self.inputs.values())

    def add(self, other: "Tally") -> None:
        """Take in what another one has; an input that both have counts once."""
        self.inputs |= other.inputs
        self.findings += other.findings
        self.slowest, self.memory = max(self.slowest, other.slowest), max(self.memory, other.memory)


class Hang(BaseException):
    """The time is up."""


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise Hang after SECONDS."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Stages:
    """Watches how far decoding gets."""

    def __init__(self, watched: Codec) -> None:
        self.reached = "header"
        architecture = watched._architecture
        make_decoder, checksum, synthesise = strips.make_decoder, strips._checksum, architecture.synthesise
        unpack_file = codec.unpack

        def reach(stage: str) -> None:
            if STAGES.index(stage) > STAGES.index(self.reached):
                self.reached = stage

        codec.unpack = lambda *given, **named: (reach("chunks"), unpack_file(*given, **named))[1]
        strips.make_decoder = lambda data: (reach("coder"), make_decoder(data))[1]
        strips._checksum = lambda *given: (reach("latents"), checksum(*given))[1]
        architecture.synthesise = lambda y: (reach("synthesis"), synthesise(y))[1]  # type: ignore[method-assign]


class Harness:
    """A codec under watch and the sound files that hostile ones are made of."""

    def __init__(self) -> None:
        warnings.simplefilter("error")
        self.codec = Codec(open_bundle(TINY), threads=1)
        self.sound: Seeds = seeds(self.codec)
        self.pictures = {data: self.codec.decode(data) for data in self.sound.files}
        self.stages = Stages(self.codec)

    def run(self, batch: str, count: int) -> Tally:
        """Try `count` files made from a seed; deterministic."""
        draw, tally = random.Random(batch), Tally()
        for _ in range(count):
            self.examine(mutant(draw, self.sound), draw, tally)
        return tally

    def examine(self, tried: Mutant, draw: random.Random, tally: Tally) -> None:
        """Decode one file and judge what happens."""
        digest = int.from_bytes(blake2b(tried.data, digest_size=8).digest(), "little")
        if digest in tally.inputs:
            return
        self.stages.reached = "header"
        start = time.perf_counter()
        fault = None
        try:
            with time_limit():
                fault = self._decode(tried, draw)
        except Hang:
            fault = f"no answer within {SECONDS} s"
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # also what constriction raises, which is no Exception
            fault = f"{type(error).__name__}: {error} {_where(error)}"
        tally.slowest = max(tally.slowest, time.perf_counter() - start)
        tally.memory = max(tally.memory, peak_memory())
        if fault is None and tally.memory > MEMORY:
            fault = f"{tally.memory:,} bytes of memory"
        tally.inputs[digest] = sys.intern(tried.kind), sys.intern(self.stages.reached)
        if fault is not None:
            tally.findings.append((f"{tried.kind}: {fault}", tried.data))

    def _decode(self, tried: Mutant, draw: random.Random) -> str | None:
        data = tried.data
        try:
            picture = self.codec.decode(data, LIMITS)
        except (FileFormatError, LimitExceeded, ModelError) as error:
            if not str(error) or "\n" in str(error):
                return f"a message of no or several lines: {error}"
            if draw.random() < 0.1:
                self._salvage(data)
            return None
        self.stages.reached = "picture"
        header, _ = read_header(data)
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
            part = self.codec.decode(data, LIMITS, region=region)
            if not np.array_equal(part.pixels, picture.pixels[region.rows, region.columns]):
                return f"another picture in the region {region}"
        return None

    def _salvage(self, data: bytes) -> None:
        reached = self.stages.reached
        try:
            self.codec.salvage(data, LIMITS)
        except (FileFormatError, LimitExceeded, ModelError):
            pass
        finally:
            self.stages.reached = reached


def run_bundles(batch: str, count: int) -> Tally:
    """Open `count` hostile models made from a seed, and decode with those that open."""
    draw, tally = random.Random(batch), Tally()
    warnings.simplefilter("error")
    golden = unpack((GOLDEN / "odd.rbc").read_bytes())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        for _ in range(count):
            digest = int.from_bytes(write_mutant(draw, folder)[:8], "little")
            if digest in tally.inputs:
                continue
            stage, start = "manifest", time.perf_counter()
            try:
                with time_limit():
                    bundle = open_bundle(folder)
                    stage = "parts"
                    bundle.verify()
                    hostile = Codec(bundle, threads=1)
                    hostile._architecture.check()
                    stage = "decoding"
                    hostile.decode(pack(replace(golden.header, fingerprint=bundle.fingerprint), golden.chunks))
                    stage = "picture"
            except RobustcodecError as error:
                if not str(error) or "\n" in str(error):
                    tally.findings.append((f"model: message of several lines: {error}", _archive(folder)))
            except Hang:
                tally.findings.append((f"model: no answer within {SECONDS} s", _archive(folder)))
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                fault = f"model: {type(error).__name__}: {error} {_where(error)}"
                tally.findings.append((fault, _archive(folder)))
            tally.slowest = max(tally.slowest, time.perf_counter() - start)
            tally.inputs[digest] = "model", stage
    tally.memory = peak_memory()
    return tally


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

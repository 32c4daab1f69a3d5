"""Encode pictures to files and decode them again: composes pictures, networks, entropy coder and container."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from robustcodec import memory
from robustcodec.alpha import encode_alpha
from robustcodec.architectures import Architecture, Float32, Int32, open_architecture
from robustcodec.architectures.demands import demand_of
from robustcodec.blas import limited
from robustcodec.bundle import Bundle, damage_named, find_for
from robustcodec.bundle import find as find_bundle
from robustcodec.container import (
    DEFAULT_LIMITS,
    MAX_SIDE,
    MAX_STRIP_PIXELS,
    STRIP_UNIT,
    Header,
    Limits,
    Payload,
    read_header,
    unpack,
)
from robustcodec.dither import key_of, seed_of
from robustcodec.errors import CorruptFile, LimitExceeded, ModelError, UsageError
from robustcodec.images import Picture
from robustcodec.layout import (
    Content,
    alpha_of,
    channels,
    coded_region,
    header_of,
    joined,
    latents_of_strip,
    lost_region,
    pack_file,
    picture_of,
    rgb,
    transformed,
    undo,
)
from robustcodec.networks import STRIDE
from robustcodec.pixels import Pixels
from robustcodec.plain import arrangement, read_classical, read_lossless, write_classical, write_lossless
from robustcodec.processors import useful_threads
from robustcodec.rate import DEFAULT_TARGET, STEP_UNIT, Psnr, Quality, Step, Target
from robustcodec.refine import STEPS, Edges, refine
from robustcodec.salvage import recover
from robustcodec.strips import Strip, code_strip, prepare_strip, read_strip
from robustcodec.targets import Written, meet
from robustcodec.tiling import Region
from robustcodec.transforms import analyse, latent_rows, latents_of, synthesise

STRIP_ABOVE = 1 << 22
"""Pixels above which a picture is cut into strips, so that a file does not depend on the machine's memory."""

STRIP_ROWS = 1024
"""Coded rows of a strip; pictures wider than 16384 pixels get lower ones, for MAX_STRIP_PIXELS."""

_GREY = 128
"""What salvage shows where a strip is lost."""

_UNLIMITED = Limits(max_pixels=MAX_SIDE**2, max_metadata=1 << 62)
"""For files just written, and where another check follows."""


@dataclass(frozen=True)
class Encoded:
    """A file and how it was made: its quality (1 to 6), its step R and, if asked for, what a decoder will show.

    `largest` is the largest magnitude of its latents, `expected` the bits that their probability tables expect of them.
    A step coarser than that of quality 1 or finer than that of 6, which a target may need, has no quality. Files whose
    payload is not the network's have none either, a step of 0 and no latents.
    """

    data: bytes
    quality: float | None
    step: int
    reconstruction: Pixels | None
    largest: float = 0.0
    expected: float = 0.0


@dataclass(frozen=True)
class Salvaged:
    """What was left of a damaged file, and the regions of the picture that are lost.

    Up to `inexact` rows (or columns, of pictures stored turned) beside these are not quite what was encoded.
    """

    picture: Picture
    lost: tuple[Region, ...]
    inexact: int


class Codec:
    """Encodes and decodes with one model, on `threads` threads (all usable ones by default, at most all there are)."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.bundle = bundle
        self.threads = useful_threads(threads)

    @cached_property
    def demand(self) -> memory.Demand:
        """What the model takes of memory and arithmetic."""
        with damage_named(self.bundle.path):
            return demand_of(self.bundle.manifest.architecture, self.bundle.manifest.sizes)

    @cached_property
    def _architecture(self) -> Architecture:
        return open_architecture(self.bundle, self.threads)

    def encode(
        self,
        picture: Picture,
        target: Target = DEFAULT_TARGET,
        *,
        limits: Limits = DEFAULT_LIMITS,
        measure: bool = False,
        transform: int = 0,
        effort: int = 0,
    ) -> Encoded:
        """Encode a picture; `measure` also gives the reconstruction, which decoding will give exactly.

        `transform` (0 to 7) is the flip or rotation under which it is coded; readers see it as it was. `effort` (0 to
        3) is time spent on better latents. Raises LimitExceeded, TargetError for a target that the model cannot reach
        on this picture, or UsageError for an effort out of range.
        """
        _check_size(picture, limits)
        if effort not in range(len(STEPS)):
            raise UsageError(f"effort goes from 0 (fast) to {len(STEPS) - 1}, not to {effort}")
        alpha = picture.alpha is not None
        sides = (picture.height, picture.width) if transform & 4 else (picture.width, picture.height)
        needed = self.memory_to_encode(*sides, target, measure, alpha, effort > 0)
        memory.check(needed, limits.max_memory)
        with self._at_work():
            prepared = self._prepare(picture, isinstance(target, Quality | Step), transform)
            met = meet(_Coder(self, prepared), target, self.bundle.manifest, measure=measure, effort=effort)
        quality = self.bundle.manifest.quality(met.step)
        return Encoded(met.written.data, quality, met.step, met.shown, met.written.largest, met.written.expected)

    def memory_to_encode(
        self,
        width: int,
        height: int,
        target: Target = DEFAULT_TARGET,
        measure: bool = False,
        alpha: bool = False,
        refines: bool = False,
        falls_back: bool = False,
    ) -> int:
        """Give the bytes that reading a picture and encoding it may take: see `robustcodec.memory`.

        `width` and `height` are those of the picture as it is coded.
        """
        return memory.to_encode(
            width,
            height,
            strip_rows(width, height),
            self.demand,
            searches=not isinstance(target, Quality | Step),
            measures=measure or isinstance(target, Psnr),
            alpha=alpha,
            refines=refines,
            falls_back=falls_back,
        )

    def decode(self, data: bytes, limits: Limits = DEFAULT_LIMITS, *, region: Region | None = None) -> Picture:
        """Decode a file, or only a region of its picture: the same pixels, with no other strips read than it needs.

        A file whose payload is not the network's needs no model, and any codec decodes it. Raises FileFormatError,
        LimitExceeded, ModelError, or UsageError for a region outside the picture.
        """
        header, _ = read_header(data, limits)
        coded = coded_region(header, region)
        self._check_file(header, len(data), limits, coded)
        with self._at_work():
            rows = range(coded.rows.start, coded.rows.stop)
            if header.payload is Payload.NETWORK:
                latents = latent_rows(self._architecture, coded.rows, header.coded_height)
                rows = range(latents.start * STRIDE, latents.stop * STRIDE)
            file = unpack(data, limits, strips=header.strips_of(rows))
            strips = file.payload
            pixels = self._show(header, lambda index: self._read_strip(strips[index], index, header), coded)
        picture = picture_of(undo(pixels, header.transform), file.chunks)
        return replace(picture, alpha=alpha_of(header, file.chunks, region))

    def salvage(self, data: bytes, limits: Limits = DEFAULT_LIMITS) -> Salvaged:
        """Decode what is left of a damaged file: strips that are lost are grey, and some rows beside them inexact.

        Raises FileFormatError if the header is damaged or no strip is left, LimitExceeded, ModelError.
        """
        header, _ = read_header(data, limits)
        whole = coded_region(header, None)
        self._check_file(header, len(data), limits, whole)
        found = recover(data, limits)
        lost = []

        def read(index: int) -> Content:
            content = found.strips[index]
            if content is not None:
                with suppress(CorruptFile):
                    return self._read_strip(content, index, header)
            lost.append(index)
            if header.payload is not Payload.NETWORK:
                return np.zeros((len(header.rows_of_strip(index)), header.coded_width, channels(header)), np.uint8)
            return np.zeros((self._architecture.channels, *latents_of_strip(header, index)), np.int32)

        with self._at_work():
            pixels = self._show(header, read, whole)
        if len(lost) == header.num_strips:
            raise CorruptFile("the file is damaged: no strip of it is intact and in its place; get another copy")
        for index in lost:
            rows = header.rows_of_strip(index)
            pixels[rows.start : rows.stop] = _GREY
        picture = picture_of(undo(pixels, header.transform), found.others)
        if header.alpha:
            try:
                picture = replace(picture, alpha=alpha_of(header, found.others, None))
            except CorruptFile:
                picture = replace(picture, notes=("its transparency is lost",))
        inexact = self._architecture.synthesis_halo * STRIDE if header.payload is Payload.NETWORK else 0
        return Salvaged(picture, tuple(lost_region(header, index) for index in sorted(lost)), inexact)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        with damage_named(self.bundle.path), limited(self.threads):
            yield

    def _check_file(self, header: Header, size: int, limits: Limits, shown: Region) -> None:
        """Refuse what this codec cannot decode, or not within the limits, before any work."""
        if header.payload is Payload.NETWORK and header.fingerprint != self.bundle.fingerprint:
            raise ModelError(
                f"the file was made with model {header.fingerprint.hex()}, not with {self.bundle.id} "
                f"({self.bundle.fingerprint.hex()}); decode it with that one"
            )
        pixels = shown.width * shown.height
        memory.check(memory.to_decode(header, size, self.demand, pixels), limits.max_memory)

    def _prepare(self, picture: Picture, once: bool = False, transform: int = 0) -> "_Prepared":
        """Arrange for everything that does not depend on the step; `once` if only one step will be tried."""
        pixels = transformed(picture.pixels, transform)
        height, width = pixels.shape[:2]
        rows = strip_rows(width, height)
        seed = seed_of(pixels) if self._architecture.dithered.tables else b""
        strips = _Strips(self._architecture, pixels, rows or height, seed, keep=not once)
        alpha = None if picture.alpha is None else encode_alpha(picture.alpha)
        return _Prepared(picture, rows, strips if rows else tuple(strips), alpha, transform, seed)

    def _code(self, prepared: "_Prepared", step: int, effort: int = 0) -> Written:
        """Code a picture's latents at a step; keep those of a single strip, to be shown."""
        header = header_of(
            prepared.picture,
            Payload.NETWORK,
            prepared.transform,
            prepared.strip_rows,
            step=step,
            fingerprint=self.bundle.fingerprint,
            seed=prepared.seed,
        )
        kept: list[Int32] = []
        largest, expected = 0, 0.0

        pixels = transformed(prepared.picture.pixels, prepared.transform)
        weight = self.bundle.manifest.lagrangian(step)

        def code(index: int, strip: Strip) -> bytes:
            nonlocal largest, expected
            if effort:
                rows = header.rows_of_strip(index)
                own = pixels[rows.start : rows.stop]
                edges = Edges(above=index > 0, below=index < header.num_strips - 1)
                strip = refine(self._architecture, strip, own, step, weight, STEPS[effort], edges)
            coded = code_strip(self._architecture, strip, step)
            largest = max(largest, int(coded.y_hat.max()), -int(coded.y_hat.min()))
            expected += coded.expected
            if not prepared.strip_rows:
                kept.append(coded.y_hat)
            return coded.data

        strips = (code(index, strip) for index, strip in enumerate(prepared.strips))
        data = pack_file(header, strips, prepared.picture, prepared.alpha)
        return Written(data, tuple(kept), largest / STEP_UNIT, expected)

    def _read_strip(self, data: bytes, index: int, header: Header) -> Content:
        """Read what a strip holds: latents, or pixels of a payload that needs no model."""
        if header.payload is Payload.NETWORK:
            key = key_of(header.seed, index)
            return read_strip(self._architecture, data, *latents_of_strip(header, index), header.step, key)
        read = read_classical if header.payload is Payload.CLASSICAL else read_lossless
        return read(data, len(header.rows_of_strip(index)), header.coded_width, channels(header))

    def _show(self, header: Header, read: Callable[[int], Content], region: Region) -> Pixels:
        """Give the pixels of a region of the coded picture; `read` gives what a strip holds."""
        if header.payload is not Payload.NETWORK:
            return joined(header, read, region)
        rows = _Rows(read, latents_of(header.strip_rows or header.coded_height))
        height, width = header.coded_height, header.coded_width
        return synthesise(self._architecture, rows, height, width, region, grey=header.grey)

    def _reconstruct(self, written: Written) -> Pixels:
        """Show what a file that was just written decodes to, upright."""
        header, _ = read_header(written.data, _UNLIMITED)
        if written.latents:
            pixels = self._show(header, written.latents.__getitem__, coded_region(header, None))
        else:
            strips = unpack(written.data, _UNLIMITED).payload
            pixels = self._show(
                header, lambda index: self._read_strip(strips[index], index, header), coded_region(header, None)
            )
        return rgb(undo(pixels, header.transform))


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A picture and, after its analysis, its strips."""

    picture: Picture
    strip_rows: int
    strips: Iterable[Strip]
    alpha: bytes | None = None
    transform: int = 0
    seed: bytes = b""


@dataclass(frozen=True)
class _Coder:
    """A picture and the codec that codes it."""

    codec: Codec
    prepared: _Prepared

    @property
    def picture(self) -> Picture:
        return self.prepared.picture

    def code(self, step: int, effort: int = 0) -> Written:
        return self.codec._code(self.prepared, step, effort)

    def show(self, written: Written) -> Pixels:
        return self.codec._reconstruct(written)


@dataclass(frozen=True, eq=False)
class _Strips:
    """The strips of a picture from top to bottom, each made when its turn comes.

    What the analysis gave is kept for further passes if `keep` is set; the rest of a strip is not, for its size.
    """

    architecture: Architecture
    pixels: Pixels
    rows: int
    seed: bytes
    keep: bool
    _kept: dict[int, tuple[Float32, Int32]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Strip]:
        height = self.pixels.shape[0]
        for index, top in enumerate(range(0, height, self.rows)):
            key = key_of(self.seed, index)
            if top in self._kept:
                y, z = self._kept[top]
                conditions = self.architecture.conditions(z, y.shape[1], y.shape[2], key)
                yield Strip(y, z, conditions, self.architecture.dead_zones)
                continue
            y = analyse(self.architecture, self.pixels, top, min(top + self.rows, height))
            strip = prepare_strip(self.architecture, y, key)
            if self.keep:
                self._kept[top] = strip.y, strip.z
            yield strip


class _Rows:
    """Gives rows of latents out of strips of `height` rows of them; holds only the strips that were last asked for."""

    def __init__(self, read: Callable[[int], Int32], height: int) -> None:
        self._read = read
        self._height = height
        self._held: dict[int, Int32] = {}

    def __call__(self, first: int, last: int) -> Int32:
        needed = range(first // self._height, -(-last // self._height))
        self._held = {index: self._held[index] for index in needed if index in self._held}
        parts = []
        for index in needed:
            if index not in self._held:
                self._held[index] = self._read(index)
            top = index * self._height
            parts.append(self._held[index][:, max(0, first - top) : last - top])
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def encode_plain(picture: Picture, quality: int | None, limits: Limits = DEFAULT_LIMITS) -> Encoded | None:
    """Encode a picture without a model: at a quality from 0 to 100, or without loss (None), then in at most 0.1 % and
    64 bytes more than its samples and metadata have.

    Gives None where a classical codec has no way to hold a picture of this size. Raises LimitExceeded.
    """
    _check_size(picture, limits)
    transform, rows = arrangement(picture.width, picture.height)
    payload = Payload.LOSSLESS if quality is None else Payload.CLASSICAL
    pixels = transformed(picture.pixels[..., :1] if picture.grey else picture.pixels, transform)
    header = header_of(picture, payload, transform, rows)
    strips = []
    shown = np.empty(pixels.shape, np.uint8)
    for index in range(header.num_strips):
        span = header.rows_of_strip(index)
        strip = np.ascontiguousarray(pixels[span.start : span.stop])
        data = write_lossless(strip) if quality is None else write_classical(strip, quality)
        if data is None:
            return None
        shown[span.start : span.stop] = strip if quality is None else read_classical(data, *strip.shape)
        strips.append(data)
    alpha = None if picture.alpha is None else encode_alpha(picture.alpha)
    return Encoded(pack_file(header, strips, picture, alpha), None, 0, rgb(undo(shown, transform)))


def strip_rows(width: int, height: int) -> int:
    """Rows of the strips that a picture of this size is cut into, 0 for none."""
    fitting = max(STRIP_UNIT, MAX_STRIP_PIXELS // width // STRIP_UNIT * STRIP_UNIT)
    rows = min(STRIP_ROWS, fitting)
    return rows if width * height > STRIP_ABOVE and height > rows else 0


def codec_for_file(data: bytes, model: str | None = None, threads: int | None = None) -> Codec:
    """Make the codec that a file needs: of the model it names, or of `model` (id, path or fingerprint prefix).

    A file that needs none gets the default model's.
    """
    header, _ = read_header(data, Limits(max_pixels=MAX_SIDE**2))  # sizes are for `decode` to judge
    named = model is not None or header.payload is not Payload.NETWORK
    return Codec(find_bundle(model) if named else find_for(header.fingerprint), threads)


def _check_size(picture: Picture, limits: Limits) -> None:
    pixels = _ceil(picture.width, STRIDE) * _ceil(picture.height, STRIDE)
    if pixels > limits.max_pixels:
        raise LimitExceeded(
            f"the picture of {picture.width}x{picture.height} has {pixels} pixels with padding but "
            f"{limits.max_pixels} are allowed; raise the limit if you trust it"
        )
    metadata = sum(len(data) for data in (picture.icc, picture.exif, picture.xmp) if data is not None)
    if metadata > limits.max_metadata:
        raise LimitExceeded(
            f"the picture carries {metadata} bytes of metadata but {limits.max_metadata} are allowed; strip it"
        )


def _ceil(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple

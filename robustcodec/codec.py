"""Encode pictures to files and decode them again: composes pictures, networks, entropy coder and container."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from robustcodec import memory
from robustcodec.alpha import decode_alpha, encode_alpha
from robustcodec.architectures import Architecture, Float32, Int32, open_architecture
from robustcodec.architectures.demands import demand_of
from robustcodec.bundle import Bundle, damage_named, find_for
from robustcodec.bundle import find as find_bundle
from robustcodec.container import (
    DEFAULT_LIMITS,
    MAX_SIDE,
    MAX_STEP,
    MAX_STRIP_PIXELS,
    MIN_STEP,
    STRIP_UNIT,
    Chunk,
    ChunkType,
    Header,
    Limits,
    Payload,
    pack,
    read_header,
    unpack,
)
from robustcodec.errors import CorruptFile, LimitExceeded, ModelError, TargetError, UsageError
from robustcodec.images import Picture
from robustcodec.metrics import psnr
from robustcodec.networks import STRIDE
from robustcodec.plain import arrangement, read_classical, read_lossless, write_classical, write_lossless
from robustcodec.processors import useful_threads
from robustcodec.rate import DEFAULT_TARGET, STEP_UNIT, BitsPerPixel, FileSize, Psnr, Quality, Step, Target
from robustcodec.refine import STEPS, Edges, refine
from robustcodec.salvage import recover
from robustcodec.search import finest_step_within, step_for_psnr
from robustcodec.strips import Strip, code_strip, prepare_strip, read_strip
from robustcodec.tiling import Region
from robustcodec.transforms import analyse, latent_rows, latents_of, synthesise

Pixels = NDArray[np.uint8]

_Content: TypeAlias = NDArray[Any]
"""What a strip holds: latents int32 (M, h, w) in units of 1/1024, or pixels uint8 (h, w, 1 or 3)."""

STRIP_ABOVE = 1 << 22
"""Pixels above which a picture is cut into strips, so that a file does not depend on the machine's memory."""

STRIP_ROWS = 1024
"""Coded rows of a strip; pictures wider than 16384 pixels get lower ones, for MAX_STRIP_PIXELS."""

_SIZE_TOLERANCE = 0.005
"""A file that is at most this far below its target is near enough."""

_PSNR_TOLERANCE = 0.1
_SYNTHESES = 6
_REFINEMENTS = 3
"""Times that latents are refined for a target in bytes."""

_GREY = 128
"""What salvage shows where a strip is lost."""

_UNLIMITED = Limits(max_pixels=MAX_SIDE**2, max_metadata=1 << 62)
"""For files just written, and where another check follows."""


@dataclass(frozen=True)
class Encoded:
    """A file and how it was made: its quality (1 to 6), its step R and, if asked for, what a decoder will show.

    `largest` is the largest magnitude of its latents. Files whose payload is not the network's have no quality, a step
    of 0 and no latents.
    """

    data: bytes
    quality: float | None
    step: int
    reconstruction: Pixels | None
    largest: float = 0.0


@dataclass(frozen=True)
class Salvaged:
    """What was left of a damaged file, and the regions of the picture that are lost."""

    picture: Picture
    lost: tuple[Region, ...]


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

    @cached_property
    def _libraries(self) -> ThreadpoolController:
        return ThreadpoolController()

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
        needed = self.memory_to_encode(picture.width, picture.height, target, measure, alpha, effort > 0)
        memory.check(needed, limits.max_memory)
        with self._at_work():
            prepared = self._prepare(picture, isinstance(target, Quality | Step), transform)
            step, written, shown = self._refined(target, prepared, measure, effort)
        return Encoded(written.data, self.bundle.manifest.quality(step), step, shown, written.largest)

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
        """Give the bytes that reading a picture of this size and encoding it may take: see `robustcodec.memory`."""
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
        coded = _coded_region(header, region)
        self._check_file(header, len(data), limits, coded)
        with self._at_work():
            rows = range(coded.rows.start, coded.rows.stop)
            if header.payload is Payload.NETWORK:
                latents = latent_rows(self._architecture, coded.rows, header.coded_height)
                rows = range(latents.start * STRIDE, latents.stop * STRIDE)
            file = unpack(data, limits, strips=header.strips_of(rows))
            strips = file.payload
            pixels = self._show(header, lambda index: self._read_strip(strips[index], index, header), coded)
        picture = _picture(_undo(pixels, header.transform), file.chunks)
        return replace(picture, alpha=_alpha(header, file.chunks, region))

    def salvage(self, data: bytes, limits: Limits = DEFAULT_LIMITS) -> Salvaged:
        """Decode what is left of a damaged file: strips that are lost are grey, and 32 rows beside them inexact.

        Raises FileFormatError if the header is damaged or no strip is left, LimitExceeded, ModelError.
        """
        found = recover(data, limits)
        header = found.header
        whole = _coded_region(header, None)
        self._check_file(header, len(data), limits, whole)
        lost = []

        def read(index: int) -> _Content:
            content = found.strips[index]
            if content is not None:
                with suppress(CorruptFile):
                    return self._read_strip(content, index, header)
            lost.append(index)
            if header.payload is not Payload.NETWORK:
                return np.zeros((len(header.rows_of_strip(index)), header.coded_width, _channels(header)), np.uint8)
            return np.zeros((self._architecture.channels, *_latents_of_strip(header, index)), np.int32)

        with self._at_work():
            pixels = self._show(header, read, whole)
        if len(lost) == header.num_strips:
            raise CorruptFile("the file is damaged: no strip of it is intact and in its place; get another copy")
        for index in lost:
            rows = header.rows_of_strip(index)
            pixels[rows.start : rows.stop] = _GREY
        picture = _picture(_undo(pixels, header.transform), found.others)
        if header.alpha:
            try:
                picture = replace(picture, alpha=_alpha(header, found.others, None))
            except CorruptFile:
                picture = replace(picture, notes=("its transparency is lost",))
        return Salvaged(picture, tuple(_lost_region(header, index) for index in sorted(lost)))

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        with damage_named(self.bundle.path), self._libraries.limit(limits=self.threads, user_api="blas"):
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

    def _step(self, target: Target) -> int:
        """Give the step that a target names."""
        assert isinstance(target, Quality | Step)
        return target.value if isinstance(target, Step) else self.bundle.manifest.step(target.value)

    def _prepare(self, picture: Picture, once: bool = False, transform: int = 0) -> "_Prepared":
        """Arrange for everything that does not depend on the step; `once` if only one step will be tried."""
        pixels = _transformed(picture.pixels, transform)
        height, width = pixels.shape[:2]
        rows = strip_rows(width, height)
        strips = _Strips(self._architecture, pixels, rows or height, keep=not once)
        alpha = None if picture.alpha is None else encode_alpha(picture.alpha)
        return _Prepared(picture, rows, strips if rows else tuple(strips), alpha, transform)

    def _code(self, prepared: "_Prepared", step: int, effort: int = 0) -> "_Written":
        """Code a picture's latents at a step; keep those of a single strip, to be shown."""
        header = _header(
            prepared.picture,
            Payload.NETWORK,
            prepared.transform,
            prepared.strip_rows,
            step=step,
            fingerprint=self.bundle.fingerprint,
        )
        kept: list[Int32] = []
        largest = 0

        pixels = _transformed(prepared.picture.pixels, prepared.transform)
        weight = self.bundle.manifest.lagrangian(step)

        def code(index: int, strip: Strip) -> bytes:
            nonlocal largest
            if effort:
                rows = header.rows_of_strip(index)
                own = pixels[rows.start : rows.stop]
                edges = Edges(above=index > 0, below=index < header.num_strips - 1)
                strip = refine(self._architecture, strip, own, step, weight, STEPS[effort], edges)
            data, y_hat = code_strip(self._architecture, strip, step)
            largest = max(largest, int(y_hat.max()), -int(y_hat.min()))
            if not prepared.strip_rows:
                kept.append(y_hat)
            return data

        strips = (code(index, strip) for index, strip in enumerate(prepared.strips))
        data = _pack(header, strips, prepared.picture, prepared.alpha)
        return _Written(data, tuple(kept), largest / STEP_UNIT)

    def _read_strip(self, data: bytes, index: int, header: Header) -> _Content:
        """Read what a strip holds: latents, or pixels of a payload that needs no model."""
        if header.payload is Payload.NETWORK:
            return read_strip(self._architecture, data, *_latents_of_strip(header, index), header.step)
        read = read_classical if header.payload is Payload.CLASSICAL else read_lossless
        return read(data, len(header.rows_of_strip(index)), header.coded_width, _channels(header))

    def _show(self, header: Header, read: Callable[[int], _Content], region: Region) -> Pixels:
        """Give the pixels of a region of the coded picture; `read` gives what a strip holds."""
        if header.payload is not Payload.NETWORK:
            return _joined(header, read, region)
        rows = _Rows(read, latents_of(header.strip_rows or header.coded_height))
        height, width = header.coded_height, header.coded_width
        return synthesise(self._architecture, rows, height, width, region, grey=header.grey)

    def _reconstruct(self, written: "_Written") -> Pixels:
        """Show what a file that was just written decodes to, upright."""
        header, _ = read_header(written.data, _UNLIMITED)
        if written.latents:
            pixels = self._show(header, written.latents.__getitem__, _coded_region(header, None))
        else:
            strips = unpack(written.data, _UNLIMITED).payload
            pixels = self._show(
                header, lambda index: self._read_strip(strips[index], index, header), _coded_region(header, None)
            )
        return _rgb(_undo(pixels, header.transform))

    def _refined(
        self, target: Target, prepared: "_Prepared", measure: bool, effort: int
    ) -> "tuple[int, _Written, Pixels | None]":
        """Meet a target with better latents, which are found for one step: so it is looked for without them first."""
        if isinstance(target, Quality | Step):
            step = self._step(target)
            written = self._code(prepared, step, effort)
            return step, written, self._reconstruct(written) if measure else None
        plain = self._meet(target, prepared, measure and not effort)
        if not effort:
            return plain
        step, written, _ = plain
        if isinstance(target, Psnr):
            step, written = self._refined_to_psnr(target, prepared, step, written, effort)
        else:
            step, written = self._refined_to_size(_bytes(target, prepared.picture), prepared, step, written, effort)
        return step, written, self._reconstruct(written) if measure else None

    def _refined_to_psnr(
        self, target: Psnr, prepared: "_Prepared", step: int, plain: "_Written", effort: int
    ) -> "tuple[int, _Written]":
        def decode(step: int) -> tuple[float, _Written]:
            written = self._code(prepared, step, effort)
            return psnr(prepared.picture.pixels, self._reconstruct(written)), written

        try:
            return step_for_psnr(decode, target.decibels, step, _PSNR_TOLERANCE, _SYNTHESES)
        except TargetError:
            return step, plain

    def _refined_to_size(
        self, size: int, prepared: "_Prepared", step: int, plain: "_Written", effort: int
    ) -> "tuple[int, _Written]":
        """Go to finer steps for what better latents save; a result that is too large is no result."""
        best = step, plain
        for _ in range(_REFINEMENTS):
            written = self._code(prepared, step, effort)
            if len(written.data) <= size:
                best = step, written
                if len(written.data) >= size * (1 - _SIZE_TOLERANCE):
                    break
            # halve the step for each doubling of the size, as is about right
            step = min(max(round(step * (len(written.data) / (size * (1 - _SIZE_TOLERANCE / 2)))), MIN_STEP), MAX_STEP)
        return best

    def _meet(
        self, target: Psnr | BitsPerPixel | FileSize, prepared: "_Prepared", measure: bool
    ) -> tuple[int, "_Written", Pixels | None]:
        """Find the step that meets a target; give it, the file and, if it is to be measured, the reconstruction."""
        manifest, picture = self.bundle.manifest, prepared.picture
        start = manifest.step(4.0)

        if isinstance(target, Psnr):

            def decode(step: int) -> tuple[float, tuple[_Written, Pixels]]:
                written = self._code(prepared, step)
                shown = self._reconstruct(written)
                return psnr(picture.pixels, shown), (written, shown)

            step, (written, shown) = step_for_psnr(decode, target.decibels, start, _PSNR_TOLERANCE, _SYNTHESES)
            return step, written, shown if measure else None

        def code(step: int) -> tuple[int, _Written]:
            written = self._code(prepared, step)
            return len(written.data), written

        step, written = finest_step_within(code, _bytes(target, picture), start, _SIZE_TOLERANCE)
        return step, written, self._reconstruct(written) if measure else None


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A picture and, after its analysis, its strips."""

    picture: Picture
    strip_rows: int
    strips: Iterable[Strip]
    alpha: bytes | None = None
    transform: int = 0


@dataclass(frozen=True, eq=False)
class _Written:
    """A file, and the latents that it decodes to if it is one strip: large pictures have too many to keep."""

    data: bytes
    latents: tuple[Int32, ...]
    largest: float


@dataclass(frozen=True, eq=False)
class _Strips:
    """The strips of a picture from top to bottom, each made when its turn comes.

    What the analysis gave is kept for further passes if `keep` is set; the rest of a strip is not, for its size.
    """

    architecture: Architecture
    pixels: Pixels
    rows: int
    keep: bool
    _kept: dict[int, tuple[Float32, Int32]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Strip]:
        height = self.pixels.shape[0]
        for top in range(0, height, self.rows):
            if top in self._kept:
                y, z = self._kept[top]
                yield Strip(y, z, self.architecture.conditions(z, *y.shape[1:]))
                continue
            y = analyse(self.architecture, self.pixels, top, min(top + self.rows, height))
            strip = prepare_strip(self.architecture, y)
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
    pixels = _transformed(picture.pixels[..., :1] if picture.grey else picture.pixels, transform)
    header = _header(picture, payload, transform, rows)
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
    return Encoded(_pack(header, strips, picture, alpha), None, 0, _rgb(_undo(shown, transform)))


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


def _undo(pixels: Pixels, transform: int) -> Pixels:
    """Undo the flips and the transposition that were done before coding (bits 0, 1 and 2, in that order)."""
    if transform & 4:
        pixels = pixels.transpose(1, 0, 2)
    if transform & 2:
        pixels = pixels[::-1]
    if transform & 1:
        pixels = pixels[:, ::-1]
    return pixels


def _transformed(pixels: Pixels, transform: int) -> Pixels:
    """Give the coded picture: flip and transpose as a header says (bits 0, 1 and 2, in that order)."""
    if transform & 1:
        pixels = pixels[:, ::-1]
    if transform & 2:
        pixels = pixels[::-1]
    return pixels.transpose(1, 0, 2) if transform & 4 else pixels


def _bytes(target: BitsPerPixel | FileSize, picture: Picture) -> int:
    """Give the most that a file may have."""
    if isinstance(target, FileSize):
        return target.size
    return math.floor(target.value * picture.width * picture.height / 8)


def _header(
    picture: Picture, payload: Payload, transform: int, strip_rows: int, step: int = 0, fingerprint: bytes = bytes(8)
) -> Header:
    return Header(
        width=picture.width,
        height=picture.height,
        payload=payload,
        grey=picture.grey,
        alpha=picture.alpha is not None,
        icc=picture.icc is not None,
        metadata=picture.exif is not None or picture.xmp is not None,
        transform=transform,
        strip_rows=strip_rows,
        step=step,
        fingerprint=fingerprint,
    )


def _pack(header: Header, strips: Iterable[bytes], picture: Picture, alpha: bytes | None) -> bytes:
    """Write a file of the data of its strips and of what travels with the picture."""
    side = [(ChunkType.ALPHA, alpha), (ChunkType.EXIF, picture.exif), (ChunkType.XMP, picture.xmp)]
    chunks = [
        *([Chunk(ChunkType.ICC, picture.icc)] if picture.icc is not None else []),
        *(Chunk(header.strip_type, data) for data in strips),
        *(Chunk(kind, data) for kind, data in side if data is not None),
    ]
    return pack(header, chunks)


def _joined(header: Header, read: Callable[[int], _Content], region: Region) -> Pixels:
    """Join the pixels of the strips that a region of the coded picture lies in."""
    result = np.empty((region.height, region.width, _channels(header)), np.uint8)
    for index in header.strips_of(range(region.rows.start, region.rows.stop)):
        rows = header.rows_of_strip(index)
        first, last = max(rows.start, region.rows.start), min(rows.stop, region.rows.stop)
        part = read(index)[first - rows.start : last - rows.start, region.columns]
        result[first - region.y : last - region.y] = part
    return result


def _channels(header: Header) -> int:
    return 1 if header.grey else 3


def _picture(pixels: Pixels, chunks: Sequence[Chunk]) -> Picture:
    """Give pixels of 1 or 3 channels the metadata among a file's chunks."""
    found = {chunk.type: chunk.data for chunk in chunks}
    return Picture(
        pixels=_rgb(np.ascontiguousarray(pixels)),
        grey=pixels.shape[2] == 1,
        icc=found.get(ChunkType.ICC),
        exif=found.get(ChunkType.EXIF),
        xmp=found.get(ChunkType.XMP),
    )


def _alpha(header: Header, chunks: Sequence[Chunk], region: Region | None) -> Pixels | None:
    """Decode what a file has of transparency in a region (None: everywhere). Raises CorruptFile."""
    if not header.alpha:
        return None
    data = next((chunk.data for chunk in chunks if chunk.type == ChunkType.ALPHA), b"")
    alpha = decode_alpha(data, header.height, header.width)
    return alpha if region is None else alpha[region.rows, region.columns].copy()


def _rgb(pixels: Pixels) -> Pixels:
    """Show one channel of grey as three, without copies."""
    return pixels if pixels.shape[2] == 3 else np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def _coded_region(header: Header, region: Region | None) -> Region:
    """Give where a region of the reader's picture (None: all of it) lies in the coded picture."""
    if region is None:
        return Region(0, 0, header.coded_width, header.coded_height)
    region.check_within(header.width, header.height)
    x, y, width, height = region.x, region.y, region.width, region.height
    if header.transform & 1:
        x = header.width - x - width
    if header.transform & 2:
        y = header.height - y - height
    return Region(y, x, height, width) if header.transform & 4 else Region(x, y, width, height)


def _lost_region(header: Header, index: int) -> Region:
    """Give where a strip lies in the reader's picture."""
    rows = header.rows_of_strip(index)
    x, y, width, height = 0, rows.start, header.coded_width, len(rows)
    if header.transform & 4:
        x, y, width, height = y, x, height, width
    if header.transform & 2:
        y = header.height - y - height
    if header.transform & 1:
        x = header.width - x - width
    return Region(x, y, width, height)


def _latents_of_strip(header: Header, index: int) -> tuple[int, int]:
    """Give rows and columns of a strip's latents."""
    return latents_of(len(header.rows_of_strip(index))), latents_of(header.coded_width)


def _ceil(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple

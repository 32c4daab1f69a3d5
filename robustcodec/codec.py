"""Encode pictures to files and decode them again: composes pictures, networks, entropy coder and container."""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from robustcodec.architectures import (
    Architecture,
    Conditions,
    Float32,
    Group,
    Int32,
    Latents,
    Schedule,
    open_architecture,
)
from robustcodec.bundle import Bundle, damage_named, find_for
from robustcodec.bundle import find as find_bundle
from robustcodec.container import (
    DEFAULT_LIMITS,
    MAX_SIDE,
    Chunk,
    ChunkType,
    Header,
    Limits,
    Payload,
    join_strip,
    pack,
    read_header,
    split_strip,
    unpack,
)
from robustcodec.entropy import (
    LARGEST_VALUE,
    decode_group,
    encode_group,
    make_decoder,
    make_encoder,
)
from robustcodec.errors import CorruptFile, ImageError, LimitExceeded, ModelError, UnsupportedVersion
from robustcodec.images import Picture
from robustcodec.metrics import psnr
from robustcodec.networks import STRIDE, usable_threads
from robustcodec.rate import DEFAULT_TARGET, STEP_UNIT, BitsPerPixel, Psnr, Quality, Target
from robustcodec.search import finest_step_within, step_for_psnr
from robustcodec.tiling import scaled, shifted, tiles

Pixels = NDArray[np.uint8]

TILE = 1024
"""Side in pixels of the tiles that networks see at once: bounds their memory."""

STRIP_ABOVE = 1 << 22
"""Pixels above which a picture is cut into strips, so that a file does not depend on the machine's memory."""

STRIP_ROWS = 1024
"""Coded rows of a strip."""

_SIZE_TOLERANCE = 0.005
"""A file that is at most this far below its target is near enough."""

_PSNR_TOLERANCE = 0.1
_SYNTHESES = 6


@dataclass(frozen=True)
class Encoded:
    """A file and how it was made: its quality (1 to 6), its step R and, if asked for, what a decoder will show."""

    data: bytes
    quality: float
    step: int
    reconstruction: Pixels | None


class Codec:
    """Encodes and decodes with one model, on `threads` threads (all usable ones by default)."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.bundle = bundle
        self.threads = threads or usable_threads()

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
    ) -> Encoded:
        """Encode a picture; `measure` also gives the reconstruction, which decoding will give exactly.

        Raises LimitExceeded, or TargetError for a target that the model cannot reach on this picture.
        """
        _check_size(picture, limits)
        with damage_named(self.bundle.path), self._libraries.limit(limits=self.threads, user_api="blas"):
            prepared = self._prepare(picture)
            step, data, shown = self._meet(target, prepared, measure)
        return Encoded(data, self.bundle.manifest.quality(step), step, shown)

    def decode(self, data: bytes, limits: Limits = DEFAULT_LIMITS) -> Picture:
        """Decode a file. Raises FileFormatError, LimitExceeded or ModelError."""
        file = unpack(data, limits)
        header = file.header
        _check_supported(header)
        if header.fingerprint != self.bundle.fingerprint:
            raise ModelError(
                f"the file was made with model {header.fingerprint.hex()}, not with {self.bundle.id} "
                f"({self.bundle.fingerprint.hex()}); decode it with that one"
            )
        with damage_named(self.bundle.path), self._libraries.limit(limits=self.threads, user_api="blas"):
            strips = [
                self._read_strip(strip, len(header.rows_of_strip(index)), header)
                for index, strip in enumerate(file.payload)
            ]
            y_hat = strips[0] if len(strips) == 1 else np.concatenate(strips, axis=1)
            pixels = self._reconstruct(y_hat, header.coded_height, header.coded_width)
        return Picture(
            pixels=np.ascontiguousarray(_undo(pixels, header.transform)),
            icc=file.get(ChunkType.ICC),
            exif=file.get(ChunkType.EXIF),
            xmp=file.get(ChunkType.XMP),
        )

    def _prepare(self, picture: Picture) -> "_Prepared":
        """Run everything that does not depend on the step."""
        y = self._analyse(picture.pixels)
        if not np.isfinite(y).all():
            raise ImageError("the model gives no finite latents for this picture; use another model")
        rows = STRIP_ROWS if picture.width * picture.height > STRIP_ABOVE and picture.height > STRIP_ROWS else 0
        strips = []
        for top in range(0, y.shape[1], rows // STRIDE or y.shape[1]):
            part = y[:, top : top + (rows // STRIDE or y.shape[1])]
            z = self._architecture.side_information(part)
            strips.append(_Strip(part, z, self._architecture.conditions(z, *part.shape[1:])))
        return _Prepared(picture, rows, tuple(strips))

    def _analyse(self, pixels: Pixels) -> Float32:
        """Give y of a picture, padded by replication to whole latents, tile by tile."""
        height, width = _ceil(pixels.shape[0], STRIDE), _ceil(pixels.shape[1], STRIDE)
        bottom, right = height - pixels.shape[0], width - pixels.shape[1]
        if bottom or right:
            pixels = np.pad(pixels, ((0, bottom), (0, right), (0, 0)), mode="edge")
        y: Float32 | None = None
        for tile in tiles(height, width, TILE, self._architecture.analysis_halo):
            x = pixels[tile.rows, tile.columns].transpose(2, 0, 1).astype(np.float32)
            x *= np.float32(1 / 255)
            part = self._architecture.analyse(x)
            if y is None:
                y = np.empty((part.shape[0], height // STRIDE, width // STRIDE), np.float32)
            rows, columns = shifted(tile.rows, tile.inner_rows), shifted(tile.columns, tile.inner_columns)
            y[:, scaled(rows, divide=STRIDE), scaled(columns, divide=STRIDE)] = part[
                :, scaled(tile.inner_rows, divide=STRIDE), scaled(tile.inner_columns, divide=STRIDE)
            ]
        assert y is not None
        return y

    def _write(self, prepared: "_Prepared", step: int) -> tuple[bytes, Int32]:
        """Code the latents at a step; give the file and the latents as the decoder will have them."""
        strips = [self._write_strip(strip, step) for strip in prepared.strips]
        picture = prepared.picture
        header = Header(
            width=picture.width,
            height=picture.height,
            payload=Payload.NETWORK,
            icc=picture.icc is not None,
            metadata=picture.exif is not None or picture.xmp is not None,
            strip_rows=prepared.strip_rows,
            step=step,
            fingerprint=self.bundle.fingerprint,
        )
        side = [(ChunkType.EXIF, picture.exif), (ChunkType.XMP, picture.xmp)]
        chunks = [
            *([Chunk(ChunkType.ICC, picture.icc)] if picture.icc is not None else []),
            *(Chunk(ChunkType.STRIP, data) for data, _ in strips),
            *(Chunk(kind, data) for kind, data in side if data is not None),
        ]
        y_hat = strips[0][1] if len(strips) == 1 else np.concatenate([y for _, y in strips], axis=1)
        return pack(header, chunks), y_hat

    def _write_strip(self, strip: "_Strip", step: int) -> tuple[bytes, Int32]:
        architecture = self._architecture
        encoder = make_encoder()
        encode_group(encoder, strip.z, architecture.side_index(*strip.y.shape[1:]), architecture.z_tables)

        def code(group: Group) -> Int32:
            values = strip.y[group.positions]
            if group.mean.ndim:
                values = values - group.mean / np.float32(STEP_UNIT)
            symbols = np.rint(values * np.float32(STEP_UNIT / step))
            # beyond the largest value a latent is cut off: only hostile pictures come near it
            clamped: Int32 = np.clip(symbols, -LARGEST_VALUE, LARGEST_VALUE).astype(np.int32)
            encode_group(encoder, clamped, group.table, architecture.y_tables)
            return clamped

        latents = _walk(strip.conditions.schedule(step), code)
        return join_strip(_checksum(strip.z, latents), encoder.finish()), latents.y_hat

    def _read_strip(self, data: bytes, rows: int, header: Header) -> Int32:
        architecture = self._architecture
        height, width = _ceil(rows, STRIDE) // STRIDE, _ceil(header.coded_width, STRIDE) // STRIDE
        crc, message = split_strip(data)
        decoder = make_decoder(message)
        z = decode_group(decoder, architecture.side_index(height, width), architecture.z_tables)
        latents = _walk(
            architecture.conditions(z, height, width).schedule(header.step),
            lambda group: decode_group(decoder, group.table, architecture.y_tables),
        )
        decoder.finish()
        if _checksum(z, latents) != crc:
            raise CorruptFile("the file is damaged: its latents do not have their checksum; get the file again")
        return latents.y_hat

    def _reconstruct(self, y_hat: Int32, height: int, width: int) -> Pixels:
        """Synthesise latents in units of 1/1024 (M, h, w), tile by tile, to pixels (height, width, 3)."""
        result = np.empty((height, width, 3), np.uint8)
        halo = self._architecture.synthesis_halo
        for tile in tiles(y_hat.shape[1], y_hat.shape[2], TILE // STRIDE, halo):
            latents = y_hat[:, tile.rows, tile.columns].astype(np.float32) * np.float32(1 / STEP_UNIT)
            x = self._architecture.synthesise(latents)
            x = x[:, scaled(tile.inner_rows, STRIDE), scaled(tile.inner_columns, STRIDE)]
            part = result[
                scaled(shifted(tile.rows, tile.inner_rows), STRIDE),
                scaled(shifted(tile.columns, tile.inner_columns), STRIDE),
            ]
            x = x[:, : part.shape[0], : part.shape[1]]
            if not np.isfinite(x).all():
                raise CorruptFile("the latents of this file decode to no finite picture; it was made to do harm")
            for channel, plane in enumerate(x):  # a plane fits the cache, which makes this twice as fast
                # clipped first, since hostile latents give numbers that overflow when multiplied
                part[:, :, channel] = np.clip(plane, 0, 1) * np.float32(255) + np.float32(0.5)
        return result

    def _meet(self, target: Target, prepared: "_Prepared", measure: bool) -> tuple[int, bytes, Pixels | None]:
        """Find the step that meets a target; give it, the file and, if it is to be measured, the reconstruction."""
        manifest, picture = self.bundle.manifest, prepared.picture
        start = manifest.step(4.0)

        def show(y_hat: Int32) -> Pixels:
            return self._reconstruct(y_hat, picture.height, picture.width)

        if isinstance(target, Psnr):

            def decode(step: int) -> tuple[float, tuple[bytes, Pixels]]:
                data, y_hat = self._write(prepared, step)
                shown = show(y_hat)
                return psnr(picture.pixels, shown), (data, shown)

            step, (data, shown) = step_for_psnr(decode, target.decibels, start, _PSNR_TOLERANCE, _SYNTHESES)
            return step, data, shown if measure else None

        def code(step: int) -> tuple[int, tuple[bytes, Int32]]:
            data, y_hat = self._write(prepared, step)
            return len(data), (data, y_hat)

        if isinstance(target, Quality):
            step = manifest.step(target.value)
            data, y_hat = self._write(prepared, step)
        else:
            pixels = picture.width * picture.height
            size = math.floor(target.value * pixels / 8) if isinstance(target, BitsPerPixel) else target.size
            step, (data, y_hat) = finest_step_within(code, size, start, _SIZE_TOLERANCE)
        return step, data, show(y_hat) if measure else None


@dataclass(frozen=True, eq=False)
class _Strip:
    """A strip's latents, z's symbols and what they say about y."""

    y: Float32
    z: Int32
    conditions: Conditions


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A picture after its analysis."""

    picture: Picture
    strip_rows: int
    strips: tuple[_Strip, ...]


def codec_for_file(data: bytes, model: str | None = None, threads: int | None = None) -> Codec:
    """Make the codec that a file needs: of the model it names, or of `model` (id, path or fingerprint prefix)."""
    header, _ = read_header(data, Limits(max_pixels=MAX_SIDE**2))  # sizes are for `decode` to judge
    _check_supported(header)
    return Codec(find_bundle(model) if model is not None else find_for(header.fingerprint), threads)


def _check_supported(header: Header) -> None:
    if header.payload is not Payload.NETWORK or header.grey or header.alpha:
        raise UnsupportedVersion(
            "the file holds a kind of picture that this release cannot decode yet; update robustcodec"
        )


def _walk(schedule: Schedule, code: Callable[[Group], Int32]) -> Latents:
    """Walk a schedule: `code` encodes or decodes each group's symbols."""
    try:
        group = next(schedule)
        while True:
            group = schedule.send(code(group))
    except StopIteration as end:
        latents: Latents = end.value
        return latents


def _checksum(z: Int32, latents: Latents) -> int:
    """CRC-32 of a strip's latents: z's symbols as int16, then what the architecture adds, little endian."""
    crc = zlib.crc32(z.astype("<i2").tobytes())
    for array in latents.checked:
        crc = zlib.crc32(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes(), crc)
    return crc


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


def _ceil(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple

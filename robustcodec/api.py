"""The Python interface: images of numpy or Pillow to bytes and back.

model = robustcodec.load()
data = model.encode(image, quality=4)
array = model.decode(data)
"""

import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robustcodec import memory
from robustcodec.bundle import find
from robustcodec.codec import Codec, codec_for_file
from robustcodec.container import DEFAULT_LIMITS, Limits
from robustcodec.errors import NotRobustcodec, UsageError
from robustcodec.guard import Verdict, memory_to_encode
from robustcodec.guard import encode as guarded_encode
from robustcodec.images import Picture, recognise, to_picture, to_pillow
from robustcodec.policy import DEFAULT_GUARD, Guard
from robustcodec.rate import DEFAULT_TARGET, BitsPerPixel, FileSize, Psnr, Quality, Target
from robustcodec.tiling import Region

if TYPE_CHECKING:
    from PIL.Image import Image

Rectangle = tuple[int, int, int, int]
"""A part of a picture in pixels: x, y, width, height."""


class Model:
    """An opened model; see `load`. Its networks are loaded by the first call that needs them and then kept."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def __repr__(self) -> str:
        return f"<robustcodec.Model {self.id} {self.fingerprint}>"

    @property
    def id(self) -> str:
        """Its name, such as hyper-base."""
        return self._codec.bundle.id

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that stand in each of its files; `load` takes them, or how they begin."""
        return self._codec.bundle.fingerprint.hex()

    def encode(
        self,
        image: "NDArray[np.uint8] | Image | bytes",
        quality: float | None = None,
        *,
        target: BitsPerPixel | FileSize | Psnr | None = None,
        effort: int = 0,
        limits: Limits = DEFAULT_LIMITS,
    ) -> bytes:
        """Encode an image to the bytes of a robustcodec file.

        `image` is an array uint8 (height, width, 3) of RGB or (height, width) of grey, 0 to 255, with one channel more
        of alpha if it is partly transparent, or a Pillow image, or the bytes of a picture file (PNG, JPEG, WebP, AVIF,
        TIFF, BMP, PPM or GIF, opened as nothing else). The latter two are turned as their EXIF says; ICC profile, EXIF
        and XMP go into the file. `quality` goes from 1
        (small) to 6 (faithful) and is 4 unless said; `target` asks for a size or a fidelity instead. `effort`
        (0 to 3) is time spent on a better result. The same image and arguments give the same bytes on one machine.

        Raises ImageError for an image that cannot be encoded, LimitExceeded, TargetError if the model cannot reach
        the target on this image, UsageError for a quality, target or effort out of range, ModelDamaged.
        """
        wanted = _target(quality, target)

        def admit(width: int, height: int) -> None:
            needed = self._codec.memory_to_encode(width, height, wanted, refines=effort > 0)
            memory.check(needed + _excess(image, width, height), limits.max_memory)

        picture = to_picture(image, limits.max_pixels, admit)
        return self._codec.encode(picture, wanted, limits=limits, effort=effort).data

    def encode_guarded(
        self,
        image: "NDArray[np.uint8] | Image | bytes",
        quality: float | None = None,
        *,
        target: BitsPerPixel | FileSize | Psnr | None = None,
        guard: Guard = DEFAULT_GUARD,
        effort: int = 0,
        limits: Limits = DEFAULT_LIMITS,
    ) -> tuple[bytes, Verdict]:
        """Encode an image like `encode`, measure what readers will get, and act on it as the guard says.

        Gives the file and the verdict on it. Raises what `encode` raises, ContractViolation where the guard says so,
        and ImageError for an image of which the model makes nothing finite, unless the guard may do without the model.
        """
        wanted = _target(quality, target)

        def admit(width: int, height: int) -> None:
            needed = memory_to_encode(self._codec, width, height, wanted, guard, effort)
            memory.check(needed + _excess(image, width, height), limits.max_memory)

        picture = to_picture(image, limits.max_pixels, admit)
        found = guarded_encode(self._codec, picture, wanted, guard, limits=limits, effort=effort)
        return found.encoded.data, found.verdict

    def decode(
        self, data: bytes, *, region: Rectangle | None = None, limits: Limits = DEFAULT_LIMITS
    ) -> NDArray[np.uint8]:
        """Decode a file that this model made to what was encoded, 0 to 255.

        That is uint8 (height, width, 3) of RGB, (height, width, 4) with alpha, (height, width) of grey or (height,
        width, 2) of grey with alpha; `decode_image(data).convert("RGB")` is RGB whatever the file. `region` asks for a
        part of the picture: the same pixels, and of a large file no more is decoded than it needs.

        Raises FileFormatError (NotRobustcodec, UnsupportedVersion, CorruptFile) for data that is no sound file,
        LimitExceeded, ModelError if another model made it, ModelDamaged, UsageError for a region outside the picture.
        """
        return self._decode(data, region, limits).samples.copy()

    def decode_image(self, data: bytes, *, region: Rectangle | None = None, limits: Limits = DEFAULT_LIMITS) -> "Image":
        """Decode like `decode`, to a Pillow image that has the file's ICC profile, EXIF and XMP in its `info`."""
        return to_pillow(self._decode(data, region, limits))

    def salvage(
        self, data: bytes, *, limits: Limits = DEFAULT_LIMITS
    ) -> tuple[NDArray[np.uint8], tuple[Rectangle, ...]]:
        """Decode what is intact of a damaged file, and say which rectangles are lost: none of a sound one.

        What is lost is grey (128), and up to 32 pixels (with `cheng` 112) beside it are inexact; the array is as
        `decode` gives it, without alpha if that is lost. Raises FileFormatError if the header is damaged or nothing is
        left, LimitExceeded, ModelError, ModelDamaged.
        """
        found = self._codec.salvage(_file(data), limits)
        lost = tuple((part.x, part.y, part.width, part.height) for part in found.lost)
        return found.picture.samples.copy(), lost

    def _decode(self, data: bytes, region: Rectangle | None, limits: Limits) -> Picture:
        return self._codec.decode(_file(data), limits, region=None if region is None else Region(*region))


def load(model: str | os.PathLike[str] | None = None, threads: int | None = None) -> Model:
    """Open a model by its id, path or the beginning of its fingerprint; by default the best that is installed.

    `threads` is how many a call computes on, all usable processors by default. Raises ModelNotFound, ModelDamaged,
    and UsageError for a number of threads below 1.
    """
    return Model(Codec(find(model), _checked(threads)))


def load_for(data: bytes, threads: int | None = None) -> Model:
    """Open the model that a file was made with; the file's beginning (39 bytes) is enough.

    Raises FileFormatError for data that is no sound file, ModelNotFound if its model is not installed.
    """
    return Model(codec_for_file(_file(data), threads=_checked(threads)))


def encode(
    image: "NDArray[np.uint8] | Image | bytes",
    quality: float | None = None,
    *,
    target: BitsPerPixel | FileSize | Psnr | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> bytes:
    """Encode one image with the default model; see `Model.encode`. For several, keep what `load` gives."""
    return load().encode(image, quality, target=target, limits=limits)


def decode(data: bytes, *, region: Rectangle | None = None, limits: Limits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Decode one file with the model that made it; see `Model.decode`. For several, keep what `load` gives."""
    return load_for(data).decode(data, region=region, limits=limits)


def _target(quality: float | None, target: BitsPerPixel | FileSize | Psnr | None) -> Target:
    if quality is not None and target is not None:
        raise UsageError("quality and target exclude each other; give one of them")
    return target or (DEFAULT_TARGET if quality is None else Quality(quality))


def _excess(image: object, width: int, height: int) -> int:
    """What a picture file takes beyond what is counted for its pixels; of other images only these are known."""
    return memory.excess(recognise(image)[0], len(image), width, height) if isinstance(image, bytes) else 0


def _file(data: object) -> bytes:
    """The bytes of a file, whatever holds them; a name is none, though people try."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise NotRobustcodec(f"a robustcodec file cannot be a {type(data).__name__}; give its bytes")
    return bytes(data)


def _checked(threads: int | None) -> int | None:
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}; give 1 or more, or none for all processors")
    return threads

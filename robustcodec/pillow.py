"""The Pillow plugin: `Image.open` and `Image.save` for robustcodec files, once `register_pillow` has been called."""

import os
from dataclasses import dataclass
from functools import lru_cache, partial
from io import BytesIO
from typing import IO, Any

from PIL import Image, ImageFile

from robustcodec.bundle import find, find_for
from robustcodec.codec import Codec
from robustcodec.container import DEFAULT_LIMITS, MAGIC, ChunkType, Limits, Payload, unpack
from robustcodec.errors import LimitExceeded, UsageError
from robustcodec.files import ENCODED_SUFFIX
from robustcodec.images import pillow_info, to_picture
from robustcodec.rate import DEFAULT_TARGET, Quality

FORMAT = "RBC"
MIME = "image/x-robustcodec"

_SAVE_OPTIONS = {"quality", "target", "icc_profile", "exif", "xmp"}
_PIECE = 1 << 20


@dataclass(frozen=True)
class _Settings:
    model: str | None
    limits: Limits
    threads: int | None


def register_pillow(model: str | None = None, *, limits: Limits = DEFAULT_LIMITS, threads: int | None = None) -> None:
    """Teach Pillow to open and save robustcodec files, in the whole process; calling it again changes the settings.

    `Image.open` checks the file and knows size, mode and metadata; the networks run when pixels are first needed (or in
    `load`): those of the model that made the file. `image.save("x.rbc", quality=4)` encodes with `model`, the best that
    is installed unless said; it takes `quality` or `target` as `robustcodec.encode` does, and `icc_profile`, `exif` and
    `xmp` instead of the image's own (None or empty: none). Pillow's own limit on pixels holds, too.

    What is wrong with a file that has the magic is raised as an error of robustcodec, not as UnidentifiedImageError. A
    service that opens what strangers send should call this only if it means to run networks for them.
    """
    settings = _Settings(model, limits, threads)
    Image.init()  # Pillow's own formats first, so that this changes nothing for them
    Image.register_open(FORMAT, partial(RobustcodecImageFile, settings=settings), _is_ours)
    Image.register_save(FORMAT, partial(_save, settings))
    Image.register_extension(FORMAT, ENCODED_SUFFIX)
    Image.register_mime(FORMAT, MIME)


class RobustcodecImageFile(ImageFile.ImageFile):
    """A robustcodec file as Pillow sees it; not decoded before `load`."""

    format = FORMAT
    format_description = "robustcodec image"

    def __init__(self, file: Any, name: str | bytes = "", *, settings: _Settings) -> None:
        self._settings = settings
        self._data: bytes | None = None
        super().__init__(file, name)

    def _open(self) -> None:
        assert self.fp is not None
        self._data = _read(self.fp, self._settings.limits)
        file = unpack(self._data, self._settings.limits)
        header = file.header
        self._size = header.width, header.height
        self._mode = ("L" if header.grey else "RGB") + ("A" if header.alpha else "")
        self.info |= pillow_info(file.get(ChunkType.ICC), file.get(ChunkType.EXIF), file.get(ChunkType.XMP))

    def load(self) -> Any:
        """Decode the file, if it is not decoded yet. Raises what `robustcodec.Model.decode` raises."""
        if self._data is not None:
            settings = self._settings
            header = unpack(self._data, settings.limits).header
            if header.payload is Payload.NETWORK:
                codec = _codec_for(header.fingerprint, settings.threads, os.getpid())
            else:  # no model is needed, and any will do
                codec = _codec_of(settings.model, settings.threads, os.getpid())
            picture = codec.decode(self._data, settings.limits)
            if self.fp is not None and self._exclusive_fp:
                self.fp.close()
            self.fp = BytesIO(picture.samples.tobytes())
            self.tile = [ImageFile._Tile("raw", (0, 0, *self.size), 0, self.mode)]
            self._data = None
        return super().load()


def _save(settings: _Settings, image: Image.Image, file: IO[bytes], name: str | bytes) -> None:
    given = dict(getattr(image, "encoderinfo", {}))
    if unknown := set(given) - _SAVE_OPTIONS:
        raise UsageError(f"a robustcodec file has no option {min(unknown)!r}; give quality or target")
    if given.get("quality") is not None and given.get("target") is not None:
        raise UsageError("quality and target exclude each other; give one of them")
    target = given.get("target") or (DEFAULT_TARGET if given.get("quality") is None else Quality(given["quality"]))
    metadata = [name for name in ("icc_profile", "exif", "xmp") if name in given]
    if metadata:
        image = image.copy()
        image.info.update((name, _as_bytes(given[name])) for name in metadata)
    picture = to_picture(image, settings.limits.max_pixels)
    codec = _codec_of(settings.model, settings.threads, os.getpid())
    file.write(codec.encode(picture, target, limits=settings.limits).data)


def _as_bytes(metadata: bytes | Image.Exif | None) -> bytes:
    return metadata.tobytes() if isinstance(metadata, Image.Exif) else metadata or b""


def _is_ours(start: bytes) -> bool:
    return start.startswith(MAGIC)


def _read(file: IO[bytes], limits: Limits) -> bytes:
    """All bytes of a file, in pieces; LimitExceeded once there are more than the largest picture could need."""
    most = 8 * limits.max_pixels + limits.max_metadata + _PIECE
    parts = []
    while part := file.read(_PIECE):
        parts.append(part)
        most -= len(part)
        if most < 0:
            raise LimitExceeded("the file has more bytes than the limits allow; raise them if you trust it")
    return b"".join(parts)


# Models are kept, for each process: one that was forked must not use the threads of its parent.


@lru_cache(maxsize=4)
def _codec_for(fingerprint: bytes, threads: int | None, process: int) -> Codec:
    return Codec(find_for(fingerprint), threads)


@lru_cache(maxsize=4)
def _codec_of(model: str | None, threads: int | None, process: int) -> Codec:
    return Codec(find(model), threads)

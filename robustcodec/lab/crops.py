"""Training crops in little space: a sample of tiles of all training pictures, as AVIF files in one archive."""

import io
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from robustcodec.errors import ImageError, TrainingError
from robustcodec.images import Picture, read_picture, write_picture
from robustcodec.lab.data import reduced
from robustcodec.pixels import Pixels

_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How crops are stored. AVIF at 90 takes 0.25 byte a pixel; JPEG, read by any Pillow, about twice that."""

    format: str = "AVIF"
    quality: int = 90


def sample_tiles(pictures: Iterable[Pixels], side: int, seed: int) -> Iterator[Pixels]:
    """Give all square tiles of the pictures (uint8 (H, W, 3)) and of their reductions, in a random order.

    No two tiles of a picture overlap, and a large picture's come later than a small one's, as a pool draws pictures
    in proportion to the square root of their pixels.
    """
    random = np.random.default_rng(seed)
    tiles: list[tuple[float, Pixels]] = []
    for picture in pictures:
        for version in reduced(picture):
            rows, columns = (size // side for size in version.shape[:2])
            if not rows or not columns:
                continue
            top = int(random.integers(version.shape[0] - rows * side + 1))
            left = int(random.integers(version.shape[1] - columns * side + 1))
            weight = (version.shape[0] * version.shape[1]) ** 0.5 / (rows * columns)
            for index in range(rows * columns):
                y, x = top + index // columns * side, left + index % columns * side
                # the order of such keys is that of drawing without replacement by weight
                tiles.append((random.exponential() / weight, version[y : y + side, x : x + side]))
    if not tiles:
        raise TrainingError(f"no picture is at least {side} pixels wide and high; take smaller crops")
    tiles.sort(key=lambda tile: tile[0])
    return (tile for _, tile in tiles)


def pack_crops(crops: Iterable[Pixels], encoding: Encoding, most: int) -> bytes:
    """Encode crops into a tar archive of at most `most` bytes, as many as fit in their order."""
    archive = io.BytesIO()
    size = 1024  # the end of an archive
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, data in enumerate(_encoded(crops, encoding)):
            size += 512 + -(-len(data) // 512) * 512
            if -(-size // tarfile.RECORDSIZE) * tarfile.RECORDSIZE > most:
                break
            entry = tarfile.TarInfo(f"{number:05d}.{encoding.format.lower()}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        if not tar.getmembers():
            raise TrainingError(f"not one crop fits into {most} bytes; allow more")
    return archive.getvalue()


def count_crops(archive: bytes) -> int:
    """Count the crops of an archive."""
    return len(_files(archive))


def unpack_crops(archive: bytes) -> list[Pixels]:
    """Decode all crops of an archive to uint8 (H, W, 3)."""

    def decode(data: bytes) -> Pixels:
        try:
            return read_picture(data, max_pixels=2**24).pixels
        except ImageError as error:
            raise TrainingError(f"a crop cannot be decoded here ({error}); pack the crops in another format") from error

    files = _files(archive)
    with ThreadPoolExecutor() as workers:
        # one first: a Pillow that lacks the format says so at once
        return [decode(files[0]), *workers.map(decode, files[1:])]


def _files(archive: bytes) -> list[bytes]:
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            files = [file.read() for member in tar if (file := tar.extractfile(member))]
    except tarfile.TarError as error:
        raise TrainingError(f"the archive of crops is damaged ({error}); pack the crops again") from error
    if not files:
        raise TrainingError("the archive of crops is empty; pack the crops again")
    return files


def _encoded(crops: Iterable[Pixels], encoding: Encoding) -> Iterator[bytes]:
    """Encode in parallel, a few ahead: how many are wanted is not known before."""

    def encode(crop: Pixels) -> bytes:
        return write_picture(Picture(pixels=crop), encoding.format, encoding.quality)

    with ThreadPoolExecutor() as workers:
        for group in _groups(crops):
            yield from workers.map(encode, group)


def _groups(crops: Iterable[Pixels]) -> Iterator[Sequence[Pixels]]:
    group: list[Pixels] = []
    for crop in crops:
        group.append(crop)
        if len(group) == _AT_ONCE:
            yield group
            group = []
    yield group

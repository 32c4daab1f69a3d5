"""Training crops and validation pictures.

All pictures of a pool lie in one flat array of pixels, on the device that trains; a batch is one gather by index
arithmetic, so that drawing crops costs a GPU nothing and works the same on a CPU.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustcodec.errors import ImageError, LimitExceeded, TrainingError
from robustcodec.files import pictures_below
from robustcodec.images import read_picture
from robustcodec.pixels import Pixels

_REDUCE_ABOVE = 600
"""Pictures with a longer side than this also enter the pool reduced: more detail per crop, less of JPEG's traces."""
_REDUCTIONS = (1.0, 2**-0.5, 0.5)
_MAX_PIXELS = 2**26
_ANY = 1 << 56
"""More pixels than any picture has: larger ones than `_MAX_PIXELS` are left out by name."""
_HEAD = 1 << 16
"""Bytes of a file in which the header of nearly any picture lies."""


def picture_files(folder: Path) -> list[Path]:
    """All picture files below `folder`, sorted by their path inside it. Raises TrainingError if there are none."""
    if not folder.is_dir():
        raise TrainingError(f"{folder} is no folder; give one that holds pictures")
    files = pictures_below(folder)
    if not files:
        raise TrainingError(f"{folder} holds no pictures, such as PNG, JPEG, WebP or AVIF files")
    return files


class _Small(ImageError):
    """A picture is smaller than what is wanted of it."""


class _Seen(ImageError):
    """Enough of a picture has been read."""


def read_pictures(files: Sequence[Path], announce: Callable[[str], None], smallest: int = 1) -> list[Pixels]:
    """Decode pictures to uint8 (H, W, 3) of at least `smallest` pixels a side.

    Those that cannot be read are named, counted and left out; smaller ones are counted, and the first is named. Raises
    TrainingError if none can be read.
    """

    def admit(width: int, height: int) -> None:
        if min(width, height) < smallest:
            raise _Small
        if width * height > _MAX_PIXELS:
            raise ImageError(f"it has {width} x {height} pixels, more than {_MAX_PIXELS}; shrink it")

    def read(path: Path) -> Pixels | Path | str:
        try:
            return read_picture(path.read_bytes(), max_pixels=_ANY, admit=admit).pixels
        except _Small:
            return path
        except ImageError as error:
            return f"{path}: {error}"
        except OSError as error:
            return f"{path}: {error.strerror}"

    with ThreadPoolExecutor() as workers:
        results = list(workers.map(read, files))
    pictures = [result for result in results if not isinstance(result, Path | str)]
    small = [result for result in results if isinstance(result, Path)]
    problems = [result for result in results if isinstance(result, str)]
    if not pictures and not small:
        raise TrainingError(f"none of {len(files)} pictures can be read; {problems[0]}")
    for problem in problems:
        announce(f"left out {problem}")
    if problems:
        announce(f"left out {len(problems)} of {len(files)} pictures")
    if small:
        announce(
            f"left out {len(small)} of {len(files)} pictures, which are smaller than {smallest}x{smallest}, such as "
            f"{small[0]}"
        )
    return pictures


def picture_sizes(files: Sequence[Path]) -> list[tuple[int, int]]:
    """Give the two sides, in either order, of those pictures that can be read, by their headers alone."""
    with ThreadPoolExecutor() as workers:
        return [size for size in workers.map(_size, files) if size is not None]


def _size(path: Path) -> tuple[int, int] | None:
    found: list[tuple[int, int]] = []

    def admit(width: int, height: int) -> None:
        found.append((height, width))
        raise _Seen

    for head in (_HEAD, -1):
        with suppress(ImageError, LimitExceeded, OSError), path.open("rb") as file:
            read_picture(file.read(head), max_pixels=_MAX_PIXELS, admit=admit)
        if found:
            return found[0]
    return None


def pool_bytes(sizes: Iterable[tuple[int, int]], smallest: int) -> int:
    """Give the bytes of a pool's pixels, of pictures of such sizes and of at least `smallest` pixels a side."""
    versions = (version for size in sizes for version in _reduced_sizes(*size))
    return sum(3 * height * width for height, width in versions if min(height, width) >= smallest)


@dataclass(frozen=True)
class Pool:
    """Pictures to draw crops from: pixels uint8 (sum of H*W, 3); offset, height, width int64 (K,); chances (K,)."""

    pixels: Tensor
    offsets: Tensor
    heights: Tensor
    widths: Tensor
    chances: Tensor

    @classmethod
    def of(cls, pictures: Iterable[Pixels], smallest: int, device: torch.device) -> "Pool":
        """Gather pictures (uint8 (H, W, 3)) of at least `smallest` pixels a side, larger ones also reduced.

        A picture is drawn in proportion to the square root of its pixels: by pixels alone, a few large pictures
        would fill the batches.
        """
        kept = [version for picture in pictures for version in reduced(picture) if min(version.shape[:2]) >= smallest]
        if not kept:
            raise TrainingError(f"no picture is at least {smallest} pixels wide and high; use larger pictures")
        sizes = torch.tensor([version.shape[:2] for version in kept])
        counts = sizes.prod(1)
        return cls(
            pixels=torch.from_numpy(np.concatenate([version.reshape(-1, 3) for version in kept])).to(device),
            offsets=(counts.cumsum(0) - counts).to(device),
            heights=sizes[:, 0].to(device),
            widths=sizes[:, 1].to(device),
            chances=counts.double().sqrt().to(device),
        )

    def draw(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        """Draw `count` crops, flipped and transposed at random: float32 (count, 3, size, size) in [0, 1].

        `generator` may be on the pool's device, where a GPU then need not wait for the CPU, or on the CPU.
        No picture may be smaller than `size`.
        """
        device = self.pixels.device
        source = generator.device
        chances = self.chances.to(source)
        chosen = torch.multinomial(chances, count, replacement=True, generator=generator).to(device)
        random = torch.rand(2, count, generator=generator, dtype=torch.float64, device=source).to(device)
        flips = torch.randint(0, 2, (3, count), generator=generator, dtype=torch.bool, device=source).to(device)
        top = (random[0] * (self.heights[chosen] - size + 1)).long()
        left = (random[1] * (self.widths[chosen] - size + 1)).long()
        line = torch.arange(size, device=device).expand(count, size)
        rows = torch.where(flips[0, :, None], size - 1 - line, line)[:, :, None].expand(-1, -1, size)
        columns = torch.where(flips[1, :, None], size - 1 - line, line)[:, None, :].expand(-1, size, -1)
        transpose = flips[2, :, None, None]
        rows, columns = (
            torch.where(transpose, rows.transpose(1, 2), rows),
            torch.where(transpose, columns.transpose(1, 2), columns),
        )
        rows, columns = rows + top[:, None, None], columns + left[:, None, None]
        index = self.offsets[chosen][:, None, None] + rows * self.widths[chosen][:, None, None] + columns
        return self.pixels[index].permute(0, 3, 1, 2).float() / 255


def reduced(picture: Pixels) -> list[Pixels]:
    """Give the picture and, when it is large, its reductions."""
    versions = [picture]
    sizes = _reduced_sizes(*picture.shape[:2])[1:]
    if not sizes:
        return versions
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    for size in sizes:
        small = F.interpolate(tensor, size, mode="bicubic", antialias=True, align_corners=False)
        versions.append(small[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy())
    return versions


def _reduced_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Give the sizes of a picture and of its reductions."""
    factors = _REDUCTIONS if max(height, width) > _REDUCE_ABOVE else _REDUCTIONS[:1]
    return [(round(height * factor), round(width * factor)) for factor in factors]


def centre_crops(pictures: Iterable[Pixels], size: int) -> Tensor:
    """Cut the middle out of each picture: float32 (K, 3, size, size) in [0, 1]; smaller pictures are left out."""
    crops = []
    for picture in pictures:
        height, width = picture.shape[:2]
        if min(height, width) >= size:
            top, left = (height - size) // 2, (width - size) // 2
            crops.append(torch.from_numpy(picture[top : top + size, left : left + size].copy()))
    if not crops:
        raise TrainingError(f"no validation picture is at least {size} pixels wide and high")
    return torch.stack(crops).permute(0, 3, 1, 2).float() / 255

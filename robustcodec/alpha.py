"""The alpha plane as the data of a chunk, without loss: differences of neighbours, deflated.

    bytes  field       values
    1      prediction  what each sample is the difference from: 0 nothing, 1 its left neighbour, 2 the one above,
                       3 left + above - above left; samples beyond the edge are 0
    .      samples     zlib stream (RFC 1950) of the differences modulo 256, row by row

docs/format.md has the same for other implementations.
"""

import zlib
from typing import Any, TypeAlias

import numpy as np

from robustcodec.errors import CorruptFile

Plane: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]

_AXES = ((), (1,), (0,), (0, 1))  # along which axes a prediction takes differences


def encode_alpha(alpha: Plane) -> bytes:
    """Encode a plane, uint8 (height, width), with the prediction that costs least."""
    sizes = [len(zlib.compress(_differences(alpha, axes), 1)) for axes in _AXES]
    best = sizes.index(min(sizes))
    return bytes([best]) + zlib.compress(_differences(alpha, _AXES[best]), 9)


def decode_alpha(data: bytes, height: int, width: int) -> Plane:
    """Decode a plane, uint8 (height, width); allocates no more than its size needs.

    Raises CorruptFile for data that is no such plane.
    """
    if not data or data[0] >= len(_AXES):
        raise _damaged(f"it does not begin with a prediction from 0 to {len(_AXES) - 1}")
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(data[1:], height * width + 1)
    except zlib.error as error:
        raise _damaged(str(error)) from None
    if len(raw) != height * width or not stream.eof or stream.unused_data:
        raise _damaged("it does not have the size of the picture")
    plane = np.frombuffer(raw, np.uint8).reshape(height, width)
    for axis in _AXES[data[0]]:
        plane = np.cumsum(plane, axis=axis, dtype=np.uint8)  # modulo 256
    return plane


def _differences(plane: Plane, axes: tuple[int, ...]) -> bytes:
    for axis in axes:
        plane = np.diff(plane, axis=axis, prepend=np.uint8(0))
    return plane.tobytes()


def _damaged(finding: str) -> CorruptFile:
    return CorruptFile(f"the file is damaged: its transparency cannot be read ({finding}); get the file again")

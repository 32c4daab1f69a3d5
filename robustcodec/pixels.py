"""Pixels of pictures, as all modules hand them on."""

from typing import Any, TypeAlias

import numpy as np

Pixels: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
"""uint8 (height, width, 3) of RGB, 0 to 255; where grey is possible, (height, width) or (height, width, 1), too."""

"""What tests share: a tiny trained bundle, and pictures that are the same everywhere."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from regenerate import TINY, sample

from robustcodec.bundle import Bundle, open_bundle
from robustcodec.codec import Codec


@pytest.fixture(scope="session")
def tiny_path() -> Path:
    """Folder of the tiny bundle (hyper 8/12); its parent serves as ROBUSTCODEC_MODELS."""
    return TINY


@pytest.fixture(scope="session")
def tiny(tiny_path: Path) -> Bundle:
    return open_bundle(tiny_path)


@pytest.fixture(scope="session")
def codec(tiny: Bundle) -> Codec:
    """A codec of the tiny bundle on one thread."""
    return Codec(tiny, threads=1)


@pytest.fixture(scope="session")
def make_sample() -> Callable[..., NDArray[np.uint8]]:
    """Makes a picture of (height, width, seed) with gradients, edges and texture: uint8 (H, W, 3)."""
    return sample

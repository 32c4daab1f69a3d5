"""Pictures as searches and networks take them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from robustcodec.lab.attacks.budget import LEVELS
from robustcodec.pixels import Pixels


def batch_of(pictures: Sequence[Pixels], device: torch.device | None = None) -> Tensor:
    """Give pictures uint8 (H, W, 3) of one size as float32 (B, 3, H, W) in [0, 1]."""
    return torch.stack([torch.tensor(picture).permute(2, 0, 1) for picture in pictures]).to(device) / LEVELS

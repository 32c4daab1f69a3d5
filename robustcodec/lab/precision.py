"""Arithmetic of the transforms."""

from enum import StrEnum

import torch


class Precision(StrEnum):
    """Arithmetic of the transforms in training and in searches; latents and code lengths are float32 always.

    With `AUTO` it is bfloat16 where the device has instructions for it, else float32: without them a CPU takes tens of
    times as long in bfloat16.
    """

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def resolved(precision: Precision, device: torch.device) -> Precision:
    """Give the arithmetic that a precision comes to on a device: float32 or bfloat16."""
    if precision is not Precision.AUTO:
        return precision
    return Precision.BFLOAT16 if _has_bfloat16(device) else Precision.FLOAT32


def in_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Tell whether to compute in bfloat16 on a device."""
    return resolved(precision, device) is Precision.BFLOAT16


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        supported: bool = torch.cuda.is_bf16_supported(including_emulation=False)
        return supported
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))

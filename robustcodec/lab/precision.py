"""Arithmetic of the transforms."""

from enum import StrEnum


class Precision(StrEnum):
    """Arithmetic of the transforms in training and in searches; latents and code lengths are float32 always."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"

"""robustcodec: a learned image codec that holds up when its input is hostile."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from robustcodec.container import Limits
from robustcodec.errors import (
    ContractViolation,
    CorruptFile,
    FileFormatError,
    ImageError,
    InputError,
    LimitExceeded,
    MissingExtra,
    ModelDamaged,
    ModelError,
    ModelNotFound,
    NotRobustcodec,
    OutputError,
    RobustcodecError,
    TargetError,
    TrainingError,
    UnsupportedVersion,
    UsageError,
)
from robustcodec.policy import Guard, OnViolation, Rung
from robustcodec.rate import BitsPerPixel, FileSize, Psnr

if TYPE_CHECKING:
    from robustcodec.api import Model, decode, encode, load, load_for
    from robustcodec.pillow import register_pillow

__version__ = "0.1.0.dev1"

__all__ = [
    "BitsPerPixel",
    "ContractViolation",
    "CorruptFile",
    "FileFormatError",
    "FileSize",
    "Guard",
    "ImageError",
    "InputError",
    "LimitExceeded",
    "Limits",
    "MissingExtra",
    "Model",
    "ModelDamaged",
    "ModelError",
    "ModelNotFound",
    "NotRobustcodec",
    "OnViolation",
    "OutputError",
    "Psnr",
    "RobustcodecError",
    "Rung",
    "TargetError",
    "TrainingError",
    "UnsupportedVersion",
    "UsageError",
    "decode",
    "encode",
    "load",
    "load_for",
    "register_pillow",
]

_LATER = dict.fromkeys(("Model", "decode", "encode", "load", "load_for"), "api") | {"register_pillow": "pillow"}


def __getattr__(name: str) -> Any:
    """Import what needs numpy, Pillow and ONNX Runtime when it is first used, so that the command line starts fast."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

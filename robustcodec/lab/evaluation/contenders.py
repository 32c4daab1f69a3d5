"""The codecs that an evaluation compares: models, and classical codecs brought to a model's operating point."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from robustcodec.bundle import Bundle, find
from robustcodec.codec import Codec
from robustcodec.errors import UsageError
from robustcodec.measure import Code, coder
from robustcodec.metrics import Pixels
from robustcodec.rate import Quality


class Contender(Protocol):
    """A codec under evaluation."""

    @property
    def name(self) -> str:
        """What tables call it."""

    @property
    def fingerprint(self) -> str:
        """What tells it from every other codec, however they are called."""

    @property
    def source(self) -> "Source | None":
        """What pictures can be crafted on in a white-box attack; None for a codec without gradients."""

    def code(self, clean: Pixels, quality: float) -> Code:
        """Give what codes a picture at a quality, and any attacked version of it at the same setting."""


@dataclass(frozen=True, eq=False)
class Source:
    """A model to craft pictures on: a bundle, or the path of any checkpoint that the lab reads."""

    name: str
    fingerprint: str
    weights: Bundle | Path


class Learned:
    """A model of ours."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.name = bundle.id
        self.fingerprint = bundle.fingerprint.hex()
        self.source = Source(self.name, self.fingerprint, bundle)
        self._codec = Codec(bundle, threads)

    def code(self, clean: Pixels, quality: float) -> Code:
        """Code at a quality."""
        return coder(self._codec, Quality(quality))


def open_contenders(names: list[str], match: str, threads: int | None = None) -> list[Contender]:
    """Open models by id, path or fingerprint, and classical codecs by name.

    Classical codecs are matched to the first model, picture by picture, in `match` (psnr or bpp). Raises UsageError,
    ModelNotFound, ModelDamaged, and MissingExtra for a classical codec whose plugin is missing.
    """
    from robustcodec.lab.evaluation import classical

    if not names or len(set(names)) < len(names):
        raise UsageError("--models takes names of models, each once, such as hyper-base,jpeg")
    learned = {name: Learned(find(name), threads) for name in names if name not in classical.CODECS}
    for name in names:
        if name in classical.CODECS and not learned:
            raise UsageError(f"{name} is matched to a model, picture by picture; name a model in --models, too")
    contenders: list[Contender] = []
    for name in names:
        if name in learned:
            contenders.append(learned[name])
        else:
            contenders.append(classical.Classical(name, next(iter(learned.values())), match))
    titles = [contender.name for contender in contenders]
    if len(set(titles)) < len(titles):
        raise UsageError("--models names two models of one id; results could not be told apart, so rename one")
    return contenders


def open_source(name: str) -> Source:
    """Open a surrogate: a model, or a checkpoint by its path. Raises ModelError."""
    path = Path(name)
    if path.is_file():
        with path.open("rb") as file:
            return Source(path.stem, hashlib.file_digest(file, "sha256").hexdigest()[:16], path)
    bundle = find(name)
    return Source(bundle.id, bundle.fingerprint.hex(), bundle)

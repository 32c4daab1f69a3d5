"""The codecs that an evaluation compares: models, and classical codecs brought to a model's operating point."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from robustcodec.bundle import Bundle, find
from robustcodec.codec import Codec
from robustcodec.errors import MissingExtra, ModelError, UsageError
from robustcodec.files import clean_name
from robustcodec.lab.evaluation.records import Row
from robustcodec.measure import Code, coder
from robustcodec.pixels import Pixels
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
    if len({(contender.name, contender.fingerprint) for contender in contenders}) < len(contenders):
        raise UsageError("--models names one model twice; name each once")
    return contenders


def contenders_of(rows: Sequence[Row], names: Sequence[str] = (), threads: int | None = None) -> list[Contender]:
    """Open what rows are about, as far as this machine has it, and the models `names`: ids, paths or fingerprints.

    Classical codecs are brought to the points of the models that they were measured beside. Raises ModelNotFound and
    ModelDamaged for a model of `names`.
    """
    from robustcodec.lab.evaluation import classical

    found: dict[tuple[str, str], Contender] = {}
    for name in dict.fromkeys([*names, *(row.model for row in rows)]):
        if name in classical.CODECS:
            continue
        try:
            model = Learned(find(name), threads)
        except ModelError:
            if name in names:
                raise
            continue
        found.setdefault((model.name, model.fingerprint), model)
    wanted = {(row.model, row.fingerprint) for row in rows if row.model in classical.CODECS}
    codecs = list(_classical({name for name, _ in wanted}, list(found.values())))
    exact = [codec for codec in codecs if (codec.name, codec.fingerprint) in wanted]
    # of another release of its library, a codec still tells how far results have moved
    others = [codec for codec in codecs if codec.name not in {codec.name for codec in exact}]
    return [*found.values(), *exact, *others]


def _classical(names: set[str], anchors: Sequence[Contender]) -> Iterator[Contender]:
    """Classical codecs beside every model, matched in every way; those without their plugin are passed over."""
    from robustcodec.lab.evaluation import classical

    for name in sorted(names):
        for anchor in anchors:
            for match in classical.MATCHES:
                with contextlib.suppress(MissingExtra):
                    yield classical.Classical(name, anchor, match)


def open_source(name: str) -> Source:
    """Open a surrogate: a model, or a checkpoint by its path. Raises ModelError or TrainingError."""
    path = Path(name)
    if path.is_file():
        from robustcodec.lab.checkpoints import load_weights, network_of

        network_of(load_weights(path), str(path))  # what cannot be crafted on is refused before any work
        with path.open("rb") as file:
            return Source(clean_name(path.stem), hashlib.file_digest(file, "sha256").hexdigest()[:16], path)
    bundle = find(name)
    return Source(bundle.id, bundle.fingerprint.hex(), bundle)

"""Classical codecs beside a model: brought to its rate or PSNR, picture by picture, by a search on their quality."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from robustcodec.errors import MissingExtra
from robustcodec.images import pillow_errors
from robustcodec.measure import Code, Coded
from robustcodec.metrics import bits_per_pixel, psnr
from robustcodec.pixels import Pixels

if TYPE_CHECKING:
    from robustcodec.lab.evaluation.contenders import Contender


@dataclass(frozen=True, kw_only=True)
class _Format:
    """How Pillow writes a format; `settings` rise in quality."""

    pillow: str
    settings: tuple[float, ...] = tuple(range(101))
    option: Callable[[float], Mapping[str, Any]] = field(default=lambda setting: {"quality": int(setting)})
    options: Mapping[str, Any] = field(default_factory=dict)
    plugin: str | None = None
    package: str = "pillow"


CODECS: dict[str, _Format] = {
    "jpeg": _Format(
        pillow="JPEG",
        settings=tuple(range(1, 96)),
        options={"subsampling": "4:2:0", "optimize": True, "progressive": True},
    ),
    "jpeg2000": _Format(
        pillow="JPEG2000",
        settings=tuple(decibels / 4 for decibels in range(40, 241)),
        option=lambda setting: {"quality_layers": [setting]},
        options={"quality_mode": "dB", "irreversible": True, "mct": 1, "no_jp2": True},
    ),
    "webp": _Format(pillow="WEBP", options={"method": 6}),
    "avif": _Format(pillow="AVIF", options={"subsampling": "4:4:4", "max_threads": 1}),
    "heic": _Format(pillow="HEIF", options={"chroma": 444}, plugin="pillow_heif", package="pillow-heif"),
    "jxl": _Format(
        pillow="JXL",
        settings=tuple(half / 2 for half in range(200)),
        option=lambda setting: {"quality": setting},
        options={"num_threads": 1},
        plugin="pillow_jxl",
        package="pillow-jxl-plugin",
    ),
}
"""Codecs by the names that `--models` takes. Colours are stored as each format's users mostly do."""


MATCHES = ("psnr", "bpp")
"""What a classical codec can be brought to of a model."""


class Classical:
    """A classical codec at a model's operating point. Raises MissingExtra without its plugin."""

    source = None

    def __init__(self, name: str, anchor: "Contender", match: str) -> None:
        self.name = name
        self._format = CODECS[name]
        self._anchor = anchor
        self._match = match
        _open_plugin(name)
        package = f"{self._format.package} {version(self._format.package)}"
        # all that its results depend on
        self.fingerprint = f"{name} of {package} at the {match} of {anchor.name} {anchor.fingerprint}"

    def code(self, clean: Pixels, quality: float) -> Code:
        """Give what codes at the setting that comes nearest to the model's clean PSNR or rate at a quality."""
        wanted = self._figure(clean, self._anchor.code(clean, quality)(clean))
        settings = self._format.settings

        @cache
        def reached(index: int) -> float:
            return self._figure(clean, self._coded(clean, settings[index]))

        below, above = 0, len(settings) - 1
        while above - below > 1:
            middle = (below + above) // 2
            below, above = (middle, above) if reached(middle) < wanted else (below, middle)
        nearest = min((below, above), key=lambda index: abs(reached(index) - wanted))
        return lambda pixels: self._coded(pixels, settings[nearest])

    def _figure(self, clean: Pixels, coded: Coded) -> float:
        if self._match == "psnr":
            return min(psnr(clean, coded.pixels), 1000.0)  # infinite for a flat picture, and not to be subtracted
        return bits_per_pixel(len(coded.data), clean.shape[1], clean.shape[0])

    def _coded(self, pixels: Pixels, setting: float) -> Coded:
        out = BytesIO()
        options = {**self._format.options, **self._format.option(setting)}
        height, width = pixels.shape[:2]
        sentence = f"{self.name} cannot code a picture of {width} x {height} pixels"
        # each format has its own limits, which Pillow's writers, plugins among them, report in their own ways
        with pillow_errors(sentence, advice=f"; leave out the picture or {self.name}, or take --crop"):
            Image.fromarray(pixels).save(out, self._format.pillow, **options)
            data = out.getvalue()
            with Image.open(BytesIO(data)) as image:
                shown = np.asarray(image.convert("RGB"))
        return Coded(data, shown, setting)


def _open_plugin(name: str) -> None:
    """Make Pillow know a format that it has through a plugin."""
    plugin = CODECS[name].plugin
    if plugin is None:
        return
    if find_spec(plugin) is None:
        raise MissingExtra(
            f"{name} needs {CODECS[name].package}; install it with: pip install 'robustcodec[classical]'"
        )
    module = import_module(plugin)
    if hasattr(module, "register_heif_opener"):
        module.register_heif_opener()

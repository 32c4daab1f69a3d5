"""One picture attacked and measured before and after: what `robustcodec attack` does with each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from robustcodec.errors import UsageError
from robustcodec.images import Picture, read_picture, write_picture
from robustcodec.lab.attacks import Attack, craft
from robustcodec.lab.evaluation.contenders import Learned, Source
from robustcodec.lab.evaluation.exhibits import amplified
from robustcodec.lab.evaluation.records import Assault
from robustcodec.lab.evaluation.subjects import digest
from robustcodec.lab.origins import Order, Origin, with_origin
from robustcodec.lab.sheet import sheet
from robustcodec.measure import measure
from robustcodec.pixels import Pixels

Report = Callable[[int, int, list[float]], None]
"""Called with the step, the number of steps, and the score of the one picture; see `craft`."""


@dataclass(frozen=True, eq=False)
class Attacked:
    """A picture before and after an attack: figures of real files, and what their readers see.

    `png` is the attacked picture as a file, with the clean one's metadata and its origin.
    """

    clean: Pixels
    attacked: Pixels
    png: bytes
    origin: Origin
    decoded_before: Pixels
    decoded_after: Pixels


def attack_picture(
    codec: Learned,
    source: Source,
    picture: Picture,
    attack: Attack,
    quality: float,
    device: torch.device | None,
    report: Report,
) -> Attacked:
    """Craft an opaque RGB picture on `source` and measure it, as it is read back from its file, with `codec`.

    Raises what `craft` and coding raise.
    """
    clean = picture.pixels
    (crafted,) = craft(source.weights, [clean], attack, quality, report, device)
    png = write_picture(replace(picture, pixels=crafted.pixels), "PNG")
    attacked = read_picture(png, picture.width * picture.height).pixels
    code = codec.code(clean, quality)
    reference, coded = code(clean), code(attacked)
    before = measure(lambda _: reference, clean, clean, quality=quality)
    after = measure(lambda _: coded, clean, attacked, quality=quality, epsilon=attack.epsilon, reference=reference)
    origin = Origin(
        order=order_of(codec, source, attack, quality),
        clean=digest(clean),
        holds=attack.threat.holds(before.bpp, before.psnr, after.bpp, after.psnr),
        shrunk=crafted.shrunk,
        before=before,
        after=after,
    )
    return Attacked(
        clean=clean,
        attacked=attacked,
        png=with_origin(png, origin),
        origin=origin,
        decoded_before=reference.pixels,
        decoded_after=coded.pixels,
    )


def order_of(codec: Learned, source: Source, attack: Attack, quality: float) -> Order:
    """Say what is asked for where pictures crafted on `source` are measured with `codec`."""
    elsewhere = source.fingerprint != codec.fingerprint
    assault = Assault(
        method=attack.method,
        target=str(attack.threat.target),
        bounded=attack.threat.bounded,
        epsilon=attack.epsilon,
        steps=attack.steps,
        seed=attack.seed,
        restarts=attack.restarts,
        surrogate=source.name if elsewhere else None,
        surrogate_fingerprint=source.fingerprint if elsewhere else None,
        precision=str(attack.precision),
    )
    return Order(model=codec.name, fingerprint=codec.fingerprint, quality=quality, attack=assault)


def exhibits(result: Attacked) -> Mapping[str, Pixels]:
    """Give pictures to look at, by what they show."""
    before, after = result.origin.before, result.origin.after
    return {
        "noise": amplified(result.attacked, result.clean),
        "decoded-clean": result.decoded_before,
        "decoded": result.decoded_after,
        "compared": sheet(
            [
                ("clean", result.clean),
                (f"attacked: noise of {after.psnr_input:.1f} dB", result.attacked),
                (f"clean, decoded: {before.bpp:.3f} bpp, {before.psnr:.1f} dB", result.decoded_before),
                (f"attacked, decoded: {after.bpp:.3f} bpp, {after.psnr:.1f} dB", result.decoded_after),
            ]
        ),
    }


def find_device(name: str) -> torch.device:
    """Give the device `cpu` or `cuda`. Raises UsageError where there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("torch finds no CUDA device on this machine; leave --device out")
    return torch.device(name)

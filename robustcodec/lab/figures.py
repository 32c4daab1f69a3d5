"""Tables of figures before and after an attack: of one picture, or means with standard errors of several."""

from collections.abc import Iterator, Sequence

from robustcodec.lab.evaluation.summary import Statistic
from robustcodec.measure import Figures

_ROWS = (
    ("bits per pixel", "bpp", ".4f"),
    ("  of y", "bpp_y", ".4f"),
    ("  of z", "bpp_z", ".4f"),
    ("PSNR to the clean picture, dB", "psnr", ".2f"),
    ("PSNR to what was encoded, dB", "psnr_own", ".2f"),
    ("PSNR of the noise, dB", "psnr_input", ".2f"),
    ("MS-SSIM", "ms_ssim", ".4f"),
    ("worst 64x64 block, dB", "worst_block", ".2f"),
    ("J, rate and distortion", "score", ".4f"),
    ("change of J", "score_change", ".4f"),
    ("adversarial gain A", "gain", ".3f"),
)
"""The figures of the protocol: what tables call them, their names and formats."""


def table(title: str, before: Sequence[Figures], after: Sequence[Figures]) -> Iterator[str]:
    """Lay out figures, or means with standard errors."""
    yield f"{title:32}{'before':>18}{'after':>18}"
    for label, name, form in _ROWS:
        if len(before) > 1 and name == "score":
            continue  # the J of a set is that of its mean rate and PSNR, not the mean of J
        clean = "" if name == "psnr_input" else _cell([getattr(figures, name) for figures in before], form)
        attacked = _cell([getattr(figures, name) for figures in after], form)
        yield f"{label:32}{clean:>18}{attacked:>18}"


def _cell(values: Sequence[float | None], form: str) -> str:
    numbers = [value for value in values if value is not None]
    if len(values) == 1 or not numbers:
        return f"{numbers[0]:{form}}" if numbers else ""
    found = Statistic.of(numbers)
    if not found.count:
        return "inf"
    return f"{found.mean:{form}}" + (f" ± {found.error:{form}}" if found.count > 1 else "")

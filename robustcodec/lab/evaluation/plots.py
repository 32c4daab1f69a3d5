"""Rate-distortion plots shaped like the paper's figure 3, as SVG and PNG; no other module imports matplotlib."""

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from robustcodec.lab.evaluation.exchange import Curve, file_name
from robustcodec.lab.evaluation.records import Assault
from robustcodec.lab.evaluation.tables import PAPER_TABLE_1, budget, is_the_papers
from robustcodec.words import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PSNRS = (("psnr", "PSNR(x, x̂*) [dB]"), ("psnr_own", "PSNR(x*, x̂*) [dB]"))
_MARKERS = "osD^vPX*"
_PAPER_MARKERS, _PAPER_SHADES = "s^o", ("black", "grey", "white")


def rate_distortion(curves: Sequence[Curve], *, paper: bool = False) -> dict[str, bytes]:
    """Draw the curves of each set, a figure for each method: file names and contents; `paper` adds its table 1."""
    files: dict[str, bytes] = {}
    for data, crop in dict.fromkeys((curve.data, curve.crop) for curve in curves):
        same = [curve for curve in curves if (curve.data, curve.crop) == (data, crop)]
        methods: dict[str, list[Assault | None]] = {}
        for attack in dict.fromkeys(curve.attack for curve in same if curve.attack):
            methods.setdefault(f"-{attack.method}-{attack.options}", []).append(attack)
        for method, attacks in (methods or {"": [None]}).items():
            name = file_name(f"rd-{data}{f'-{crop}' if crop else ''}{method}")
            files |= {f"{name}.{kind}": content for kind, content in _draw(same, attacks, paper=paper).items()}
    return files


def _draw(curves: Sequence[Curve], attacks: Sequence[Assault | None], *, paper: bool) -> dict[str, bytes]:
    # without pyplot: it keeps figures in a global list and asks for a display
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    psnrs = _PSNRS[:1] if None in attacks else _PSNRS
    # a salt and no date: the same curves give the same bytes; and names may have dollar signs
    with rc_context({"svg.hashsalt": "robustcodec", "svg.fonttype": "none", "font.size": 9, "text.parse_math": False}):
        figure = Figure(figsize=(4.6 * len(attacks), 3.7 * len(psnrs)), layout="constrained")
        FigureCanvasAgg(figure)
        grid: Any = figure.subplots(len(psnrs), len(attacks), squeeze=False)
        for (psnr, label), line in zip(psnrs, grid, strict=True):
            for attack, axes in zip(attacks, line, strict=True):
                _panel(axes, curves, attack, psnr)
                if paper:
                    _paper_points(axes, attack)
                axes.set_ylabel(label if attack else "PSNR [dB]")
        figure.suptitle(_title(curves))
        labels: dict[str, Any] = {}
        for axes in figure.axes:
            labels |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=2 * len(attacks), fontsize=7)
        return {kind: _saved(figure, kind) for kind in ("svg", "png")}


def _panel(axes: "Axes", curves: Sequence[Curve], attack: Assault | None, psnr: str) -> None:
    """One attack: for each model the clean curve, solid, and the attacked one, dashed, in one colour."""
    lines = list(dict.fromkeys((curve.line.model, curve.line.fingerprint) for curve in curves))
    shown = [curve for curve in curves if curve.attack is None or curve.attack == attack]
    for curve in shown:
        index = lines.index((curve.line.model, curve.line.fingerprint))
        points = [
            (x, y)
            for x, y in zip(curve.means("bpp"), curve.means(psnr), strict=True)
            if math.isfinite(x) and math.isfinite(y)
        ]
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            color=f"C{index % 10}",
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=4,
            linestyle="-" if curve.attack is None else "--",
            markerfacecolor=f"C{index % 10}" if curve.attack is None else "white",
            label=curve.line.title
            if attack is None
            else f"{curve.line.title}, {'attacked' if curve.attack else 'clean'}",
        )
    axes.set_title(f"{attack.label}\n{budget(attack)}" if attack else "clean", fontsize=9)
    axes.set_xlabel("bits per pixel")
    axes.grid(alpha=0.3)


def _paper_points(axes: "Axes", attack: Assault | None) -> None:
    for (name, clean, psnr, bpp), marker, shade in zip(PAPER_TABLE_1, _PAPER_MARKERS, _PAPER_SHADES, strict=True):
        style: dict[str, Any] = {"linestyle": "none", "marker": marker, "markersize": 6, "markerfacecolor": shade}
        axes.plot(*clean, color="black", label=name if attack is None else f"{name}, clean", **style)
        if attack is not None and is_the_papers(attack):
            style["color"] = "red"
            axes.plot(*(psnr if attack.target == "psnr" else bpp), label=f"{name}, attacked", **style)


def _title(curves: Sequence[Curve]) -> str:
    curve = curves[0]
    pictures = max(len(cell.rows) for curve in curves for cell in curve.cells)
    return f"{curve.data}, {counted(pictures, 'picture')}, " + (
        f"centre crops of {curve.crop}" if curve.crop else "whole pictures"
    )


def _saved(figure: Any, kind: str) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()

"""One page that shows an evaluation: sliders, amplified noise, curves and tables, with everything inside the file."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape

from robustcodec.lab.evaluation.checks import Warned
from robustcodec.lab.evaluation.exhibits import AMPLIFIED, Exhibit
from robustcodec.lab.evaluation.tables import Table, budget, decibels

_STYLE = """
:root { color-scheme: light dark; --line: #8886; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1120px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; } h3 { font-size: 1rem; margin: 1.5rem 0 .3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .7rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.note { font-size: 13px; opacity: .8; }
.warning { border-left: 4px solid #d80; padding-left: .7rem; margin: .4rem 0; }
.exhibit { border-top: 1px solid var(--line); padding: 1rem 0; }
.views { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.slider { position: relative; --at: 50%; width: 512px; max-width: 100%; }
.slider img { display: block; width: 100%; image-rendering: pixelated; }
.slider img + img { position: absolute; inset: 0; height: 100%; clip-path: inset(0 0 0 var(--at)); }
.slider input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize; }
.slider:focus-within { outline: 2px solid #48f; }
.slider .bar { position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 3px #000; pointer-events: none; }
.slider .name { position: absolute; top: 0; padding: .1rem .5rem; background: #000a; color: #fff; font-size: 12px;
  pointer-events: none; }
.slider .right { right: 0; }
.thumbs { display: flex; flex-wrap: wrap; gap: .5rem 1rem; width: 528px; max-width: 100%; }
figure { margin: 0; width: calc(50% - .5rem); } figure img { width: 100%; display: block; image-rendering: pixelated; }
figcaption { font-size: 12px; opacity: .8; }
.plot { background: #fff; max-width: 100%; }
"""

_LEGEND = """
Every number is from a real file, encoded and decoded by the codec. x is the clean picture, x* the attacked one, x̂ and
x̂* what the decoder writes of them. PSNR is PSNR(x, x̂*), PSNR to x* is PSNR(x*, x̂*), both in dB; ± is the
standard error of the mean. A = (MSE(x, x̂*) − MSE(x, x̂)) / ε; ΔJ = J(x*) − J(x).
"""

_SCRIPT = """
for (const input of document.querySelectorAll('.slider input'))
  input.addEventListener('input', () => input.parentElement.style.setProperty('--at', input.value + '%'));
"""

# the page may show what is inside it and nothing else, whatever a name in it says
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(
    title: str,
    tables: Sequence[Table],
    warned: Sequence[Warned],
    shown: Sequence[Exhibit],
    plots: Mapping[str, bytes],
    notes: Sequence[str] = (),
) -> str:
    """Write the page as HTML; `plots` are SVG files by name, `notes` what could not be shown."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f"<p>{_LEGEND}</p>",
        *(f'<p class="warning">{escape(str(warning))}</p>' for warning in warned),
        *(f'<p class="note">{escape(note)}</p>' for note in notes),
    ]
    if shown:
        parts.append("<h2>What attacks do</h2>")
        parts.append(
            '<p class="note">The picture that comes off worst under each attack, a window around its worst block. Move '
            f"the slider: clean reconstruction on the left, attacked on the right. Differences are shown {AMPLIFIED} "
            "times enlarged around grey. The pictures on this page are JPEG files; figures are of the originals.</p>"
        )
        parts += map(_exhibit, shown)
    if plots:
        parts.append("<h2>Curves</h2>")
        parts += [
            f'<p><img class="plot" alt="{escape(name)}" src="{_uri(data, "svg+xml")}"></p>'
            for name, data in plots.items()
        ]
    if tables:
        parts.append("<h2>Tables</h2>")
        parts += map(_table, tables)
    return "\n".join([*parts, f"<script>{_SCRIPT}</script></body></html>", ""])


def _exhibit(exhibit: Exhibit) -> str:
    row, attack = exhibit.row, exhibit.cell.attack
    assert attack is not None
    figures = row.figures
    heading = f"{exhibit.cell.line.title}, {attack.label}, quality {row.quality:g}: {row.picture.name}"
    facts = [budget(attack), f"{figures.bpp:.3f} bpp (clean {exhibit.bpp:.3f})"]
    facts += [f"PSNR(x, x̂*) {decibels(figures.psnr)} (clean {decibels(exhibit.psnr)})"]
    facts += [f"PSNR(x*, x̂*) {decibels(figures.psnr_own)}", f"PSNR(x, x*) {decibels(figures.psnr_input)}"]
    if figures.gain is not None:
        facts.append(f"A = {figures.gain:.2f}")
    views = {
        "clean": "clean picture x",
        "attacked": "attacked picture x*",
        "noise": f"noise x* − x, {AMPLIFIED}×",
        "damage": f"damage x̂* − x, {AMPLIFIED}×",
    }
    figure = "".join(
        f'<figure><img alt="{text}" src="{_uri(exhibit.images[name], "jpeg")}"><figcaption>{text}</figcaption></figure>'
        for name, text in views.items()
    )
    return (
        f'<div class="exhibit"><h3>{escape(heading)}</h3><p class="note">{escape("; ".join(facts))}</p>'
        '<div class="views"><div class="slider">'
        f'<img alt="clean reconstruction" width="{exhibit.width}" height="{exhibit.height}" '
        f'src="{_uri(exhibit.images["before"], "jpeg")}" style="height:auto">'
        f'<img alt="attacked reconstruction" src="{_uri(exhibit.images["after"], "jpeg")}">'
        '<div class="bar"></div><span class="name">clean</span><span class="name right">attacked</span>'
        '<input type="range" min="0" max="100" value="50" aria-label="clean to attacked">'
        f'</div><div class="thumbs">{figure}</div></div></div>'
    )


def _table(table: Table) -> str:
    def cells(values: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(value)}</{tag}>" for value in values) + "</tr>"

    body = "".join(cells(row, "td") for row in table.rows)
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in table.notes)
    return (
        f'<h3>{escape(table.title)}</h3><div class="scroll"><table><thead>{cells(table.header, "th")}</thead>'
        f"<tbody>{body}</tbody></table></div>{notes}"
    )


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{b64encode(data).decode('ascii')}"

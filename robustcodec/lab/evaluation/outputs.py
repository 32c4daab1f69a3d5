"""The files that a folder of results is summed up in: tables, CompressAI's JSON, plots, and the page."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from robustcodec.files import clean_name, write_output
from robustcodec.lab.evaluation.checks import Warned
from robustcodec.lab.evaluation.contenders import Contender
from robustcodec.lab.evaluation.exchange import Curve, compressai_json, curves_of, rate_table
from robustcodec.lab.evaluation.exhibits import exhibits
from robustcodec.lab.evaluation.filesets import replace_set
from robustcodec.lab.evaluation.records import Row
from robustcodec.lab.evaluation.report import page
from robustcodec.lab.evaluation.summary import sections
from robustcodec.lab.evaluation.tables import Table, all_tables, as_csv

_HEAD = """# Evaluation

Every number is from a real file, encoded and decoded by the codec. x is the clean picture, x* the attacked one, x̂*
what the decoder writes of it. PSNR is PSNR(x, x̂*), PSNR to x* is PSNR(x*, x̂*), both in dB; ± is the standard error of
the mean. A = (MSE(x, x̂*) − MSE(x, x̂)) / ε; ΔJ = J(x*) − J(x), each against its own input.
"""


def tables_of(rows: Sequence[Row], *, paper: bool) -> list[Table]:
    """Every table of an evaluation, Bjøntegaard rates included."""
    parts = sections(rows)
    rates = rate_table(curves_of(parts))
    return [*all_tables(parts, paper=paper), *([rates] if rates else [])]


def write_summary(folder: Path, rows: Sequence[Row], warned: Sequence[Warned], *, paper: bool) -> list[Path]:
    """Write every summary of a folder of results; plots only where matplotlib is. Raises OutputError."""
    parts = sections(rows)
    curves = curves_of(parts)
    checks = ["## Checks", "", *(f"- {warning}" for warning in warned)] if warned else []
    text = "\n".join([_HEAD, *(table.markdown() for table in tables_of(rows, paper=paper)), *checks])
    files = {"summary.md": f"{text.rstrip()}\n", "summary.csv": as_csv(parts)}
    data = {name: content.encode() for name, content in files.items()}
    data |= _plots(curves, paper=paper)
    for name, content in data.items():
        write_output(folder / name, content)
    exchanged = {name: content.encode() for name, content in map(compressai_json, curves)}
    return [*(folder / name for name in data), *replace_set(folder / "compressai", exchanged)]


def write_report(
    folder: Path, rows: Sequence[Row], warned: Sequence[Warned], contenders: Sequence[Contender], *, paper: bool
) -> Path:
    """Write report.html, with pictures of the models among `contenders`. Raises OutputError."""
    plots = _plots(curves_of(sections(rows)), paper=paper)
    there = {(contender.name, contender.fingerprint) for contender in contenders}
    missing = sorted({row.model for row in rows if (row.model, row.fingerprint) not in there})
    notes = [f"No pictures of {', '.join(missing)}, which are not at hand; name them with --models."] if missing else []
    shown, left_out = exhibits(folder, rows, contenders)
    if left_out:
        notes.append(f"{left_out} more attacks on models are in the tables and not among the pictures.")
    text = page(
        f"Evaluation of {clean_name(folder.resolve().name)}",
        tables_of(rows, paper=paper),
        warned,
        shown,
        {name: content for name, content in plots.items() if name.endswith(".svg")},
        notes,
    )
    path = folder / "report.html"
    write_output(path, text.encode())
    return path


def _plots(curves: Sequence[Curve], *, paper: bool) -> dict[str, bytes]:
    if find_spec("matplotlib") is None:
        return {}
    from robustcodec.lab.evaluation.plots import rate_distortion

    return rate_distortion(curves, paper=paper)

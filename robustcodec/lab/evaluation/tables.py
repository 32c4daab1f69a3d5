"""The tables of an evaluation: shaped like the paper's, as Markdown and CSV."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from robustcodec.lab.evaluation.records import Assault
from robustcodec.lab.evaluation.summary import FIGURES, Cell, Section, Statistic, inflation, paired
from robustcodec.words import counted

PAPER_TABLE_1 = (
    ("paper: Hyper", (0.4978, 33.0), (0.498, 22.3502), (0.9161, 33.7702)),
    ("paper: ours without stage II", (0.4322, 32.2592), (0.4309, 25.9039), (0.7225, 33.1432)),
    ("paper: ours", (0.4323, 32.0802), (0.4286, 28.4039), (0.6822, 32.9933)),
)
"""arXiv 2403.06700, table 1 (Kodak, whole pictures, N = 1000, epsilon 5e-4): bpp and PSNR clean and attacked."""

PAPER_QUALITY = 4.0
PAPER_EPSILON = 5e-4
_PAPER_METHOD = "paper"


@dataclass(frozen=True)
class Table:
    """A table of text."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """Write it as Markdown."""
        lines = [f"### {_escaped(self.title)}", "", _line(self.header), _line(["---"] * len(self.header))]
        return "\n".join([*lines, *map(_line, self.rows), "", *(f"{note}\n" for note in self.notes)])


def all_tables(parts: Sequence[Section], *, paper: bool = False) -> list[Table]:
    """Every table of an evaluation; `paper` puts the paper's own rows below ours."""
    tables = []
    for section in parts:
        alike = _grouped(section.attacks, lambda attack: (attack.method, budget(attack)))
        tables += [_main_table(section, attacks, paper=paper) for attacks in alike or [[]]]
        # strengths are compared only within one threat model
        threats = _grouped(section.attacks, lambda attack: (attack.target, attack.bounded, budget(attack)))
        tables += [_detail_table(section, attacks) for attacks in threats]
        tables += [table for attacks in [[], *threats] if (table := _paired_table(section, attacks))]
    return tables


def as_csv(parts: Sequence[Section]) -> str:
    """One line for each cell: what it is, and mean and standard error of every figure; empty where there is none."""
    out = io.StringIO()
    names = [f"{name}{suffix}" for name in FIGURES for suffix in ("", "_error", "_left_out")]
    identity = ("data", "crop", "quality", "model", "fingerprint", "crafted_on", "attack")
    options = ("epsilon", "steps", "seed", "restarts", "precision")
    extra = ("pictures", "held", "score", "worst_picture", "worst_picture_psnr", "worst_picture_bpp", "worst_block_min")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*identity, *options, *extra, *names])
    for section in parts:
        for cell in section.cells:
            attack, worst = cell.attack, cell.worst
            writer.writerow(
                [
                    *(section.data, section.crop or "", section.quality, cell.line.model, cell.line.fingerprint),
                    *(cell.line.surrogate or "", attack.label if attack else "clean"),
                    *([getattr(attack, name) for name in options] if attack else [""] * len(options)),
                    *(len(cell.rows), cell.held if attack else "", _plain(cell.score), worst.picture.name),
                    *(_plain(worst.figures.psnr), _plain(worst.figures.bpp)),
                    _plain(cell.worst_block.figures.worst_block),
                    *(value for name in FIGURES for value in _csv_values(cell.statistic(name))),
                ]
            )
    return out.getvalue()


def set_title(section: Section) -> str:
    """What the numbers were measured on."""
    crop = "whole pictures" if section.crop is None else f"centre crops of {section.crop}"
    return f"{section.data}, {counted(section.count, 'picture')}, {crop}, quality {section.quality:g}"


def budget(attack: Assault) -> str:
    """Steps and budget of an attack."""
    restarts = f", {attack.restarts} restarts" if attack.restarts > 1 else ""
    precision = "" if attack.precision == "float32" else f", gradients in {attack.precision}"
    return f"N = {attack.steps}{restarts}, ε = {attack.epsilon:g}, seed {attack.seed}{precision}"


def _grouped(attacks: Sequence[Assault], place: Callable[[Assault], object]) -> list[list[Assault]]:
    groups: dict[object, list[Assault]] = {}
    for attack in attacks:
        groups.setdefault(place(attack), []).append(attack)
    return list(groups.values())


def _title(section: Section, attacks: Sequence[Assault]) -> str:
    """What the numbers of a table are about: attacks of one budget, or none."""
    if not attacks:
        return f"{set_title(section)}; clean"
    methods = ", ".join(attack.label for attack in attacks)
    return f"{set_title(section)}; method{'s' * (len(attacks) > 1)} {methods}; {budget(attacks[0])}"


def _main_table(section: Section, attacks: Sequence[Assault], *, paper: bool) -> Table:
    header = ["model", "pictures", "clean bpp", "clean PSNR", "clean J"]
    for attack in attacks:
        header += [f"{attack.label} bpp", f"{attack.label} PSNR", f"{attack.label} PSNR to x*"]
    rows, shown = [], []
    conditions: Sequence[Assault | None] = attacks or [None]
    for line in dict.fromkeys(cell.line for cell in section.cells if cell.attack in conditions):
        under = {cell.attack: cell for cell in section.cells if cell.line == line and cell.attack in attacks}
        clean = section.clean(line)
        cells = [*([clean] if clean else []), *under.values()]
        # what stands in one row is of the same pictures
        common = set.intersection(*({row.picture.name for row in cell.rows} for cell in cells))
        if not common:
            continue
        shown += [cell.of_pictures(common) for cell in cells]
        clean = clean and clean.of_pictures(common)
        row = [line.title, str(len(common)), *_figures(clean, "bpp", "psnr"), f"{clean.score:.3f}" if clean else ""]
        for attack in attacks:
            row += _figures(under[attack].of_pictures(common) if attack in under else None, "bpp", "psnr", "psnr_own")
        rows.append(tuple(row))
    notes = [_INFINITE_NOTE] if any(map(_has_infinite, shown)) else []
    if paper and section.quality == PAPER_QUALITY and all(attack.method == _PAPER_METHOD for attack in attacks):
        rows += [_paper_row(entry, attacks) for entry in PAPER_TABLE_1]
        notes.append(
            "The paper's rows are its table 1 at its low rate: Kodak, whole pictures, N = 1000, ε = 5e-4. It does not "
            "say which PSNR it prints; it stands under PSNR here, which is PSNR(x, x̂*)."
        )
    return Table(_title(section, attacks), tuple(header), tuple(rows), tuple(notes))


_INFINITE_NOTE = "n of m: infinite PSNRs (pictures that came out unchanged) are left out of the mean."


def _paper_row(entry: tuple[object, ...], attacks: Sequence[Assault]) -> tuple[str, ...]:
    name, clean, *attacked = entry
    points = dict(zip(("psnr", "bpp"), attacked, strict=True))
    row = [str(name), "24", *_point(clean), ""]
    for attack in attacks:
        row += [*_point(points[attack.target]), ""] if is_the_papers(attack) else ["", "", ""]
    return tuple(row)


def is_the_papers(attack: Assault) -> bool:
    """Whether an attack is of the kind that the paper's table 1 is about, whatever its steps."""
    return attack.method == _PAPER_METHOD and attack.bounded and attack.epsilon == PAPER_EPSILON


def _point(point: object) -> list[str]:
    assert isinstance(point, tuple)
    return [f"{point[0]:.4f}", f"{point[1]:.2f}"]


def _detail_table(section: Section, attacks: Sequence[Assault]) -> Table:
    """Everything about the attacks of one threat model, method below method."""
    header = ("method", "model", "pictures", "A", "ΔJ", "bpp", "bpp / clean", "mean ratio")
    rows = []
    for cell in (cell for attack in attacks for cell in section.of(attack)):
        worst, block = cell.worst, cell.worst_block
        clean = section.clean(cell.line)
        assert cell.attack is not None
        rows.append(
            (
                cell.attack.label,
                cell.line.title,
                str(len(cell.rows)),
                *_figures(cell, "gain", "score_change", "bpp"),
                *([_shown(ratio, "bpp") for ratio in inflation(cell, clean)] if clean else ["", ""]),
                *_figures(cell, "bpp_y", "bpp_z", "ms_ssim", "psnr_input"),
                f"{cell.held} of {len(cell.rows)}" if cell.attack.bounded else "no bound",
                f"{worst.picture.name}: {worst.figures.bpp:.3f} bpp, {decibels(worst.figures.psnr)}",
                f"{block.picture.name}: {decibels(block.figures.worst_block)}",
            )
        )
    columns = (
        *header,
        "bpp of y",
        "bpp of z",
        "MS-SSIM",
        "PSNR(x, x*)",
        "bound held",
        "worst picture",
        "worst 64×64 block",
    )
    return Table(_title(section, attacks), columns, tuple(rows))


def _paired_table(section: Section, attacks: Sequence[Assault]) -> Table | None:
    """Differences to the first model under each attack, or clean where none is given."""
    figures = ("bpp", "psnr", "psnr_own", "ms_ssim", "gain") if attacks else ("bpp", "psnr", "ms_ssim")
    rows = []
    conditions: Sequence[Assault | None] = attacks or [None]
    for attack in conditions:
        cells = section.of(attack)
        for cell in cells[1:]:
            shown = (_shown(paired(cell, cells[0], name), name, sign=True) for name in figures)
            rows.append((cell.attack.label if cell.attack else "clean", cell.line.title, cells[0].line.title, *shown))
    if not rows:
        return None
    title = f"{_title(section, attacks)}; differences between models, picture by picture"
    return Table(title, ("method", "model", "minus", *(_NAMES[name] for name in figures)), tuple(rows))


_NAMES = {"bpp": "bpp", "psnr": "PSNR", "psnr_own": "PSNR to x*", "ms_ssim": "MS-SSIM", "gain": "A"}
_DECIMALS = {"psnr": 2, "psnr_own": 2, "psnr_input": 2, "worst_block": 2, "gain": 2, "ms_ssim": 4}


def _figures(cell: Cell | None, *names: str) -> list[str]:
    return [_shown(cell.statistic(name), name) if cell else "" for name in names]


def _shown(statistic: Statistic, name: str, *, sign: bool = False) -> str:
    """A mean with its standard error, and how many of how many it is about if some are left out."""
    if not statistic.count:
        return "∞" if statistic.left_out else ""
    decimals = _DECIMALS.get(name, 3)
    text = f"{statistic.mean:{'+' if sign else ''}.{decimals}f}"
    if math.isfinite(statistic.error):
        text += f" ±{statistic.error:.{decimals}f}"
    return f"{text} ({statistic.count} of {statistic.count + statistic.left_out})" if statistic.left_out else text


def _has_infinite(cell: Cell) -> bool:
    return any(cell.statistic(name).left_out for name in ("psnr", "psnr_own"))


def decibels(value: float) -> str:
    """A PSNR as text."""
    return f"{value:.2f} dB" if math.isfinite(value) else "∞ dB"


def _csv_values(statistic: Statistic) -> list[object]:
    return [_plain(statistic.mean), _plain(statistic.error), statistic.left_out]


def _plain(value: float) -> object:
    return f"{value:.6g}" if math.isfinite(value) else ""


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")

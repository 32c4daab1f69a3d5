"""The tables of results in README.md and docs/, made of the rows in docs/results.

    python scripts/tables.py            # write them anew where they stand
    python scripts/tables.py --check    # exit with 1 if a page has others

A table stands behind a line `<!-- scripts/tables.py NAME -->`; `TABLES` has the names. Pictures are centre crops of 256
at quality 4 where nothing else is said, ± are standard errors.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from robustcodec.lab.evaluation.records import mean, read_rows
from robustcodec.lab.evaluation.summary import Cell, Section, Statistic, inflation, sections
from robustcodec.lab.evaluation.tables import PAPER_TABLE_1

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
MARK = re.compile(r"(<!-- scripts/tables\.py (\S+) -->\n\n)((?:\|.*\n)*)")
FIRST = tuple(f"kodim{number:02}" for number in range(1, 9))
"""The pictures of what not all of Kodak was attacked for."""
BASE, ROBUST, MA2023, TEACHER, CONTROL = "hyper-base", "hyper-robust", "hyper-ma2023", "hyper-teacher", "hyper-control"
SECOND_SEED = {ROBUST: "robust-s1", MA2023: "ma2023-s1"}
"""The same made with other random numbers: names of their runs."""
FAST_CONTROL = "fast-control"
CHENG = ("hyper-base", "hyper-robust", "cheng-base", "cheng-robust")
QUALITIES = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
MINUS = "−"

Line = Sequence[str]


@dataclass(frozen=True)
class Results:
    """All rows, by set, quality, model and attack."""

    parts: Sequence[Section]

    @property
    def models(self) -> set[str]:
        """Names of all models."""
        return {cell.line.model for part in self.parts for cell in part.cells}

    def clean(self, model: str, quality: float = 4.0, crop: int | None = 256, names: Sequence[str] = ()) -> Cell:
        """What a model makes of clean pictures: of all, or of those named."""
        return _one([cell for cell in self._cells(quality, crop) if cell.attack is None], model, "clean", names)

    def under(
        self,
        label: str,
        model: str,
        steps: int,
        *,
        quality: float = 4.0,
        epsilon: float = 5e-4,
        precision: str | None = None,
        names: Sequence[str] = (),
        surrogate: str | None = None,
    ) -> Cell:
        """What an attack makes of a model; `precision` is for where several are as large."""
        found = [
            cell
            for cell in self._cells(quality, 256)
            if cell.attack is not None
            and (cell.attack.label, cell.attack.steps, cell.attack.epsilon) == (label, steps, epsilon)
            and precision in (None, cell.attack.precision)
            and cell.line.surrogate == surrogate
        ]
        return _one(found, model, f"{label}, N = {steps}, quality {quality:g}", names)

    def growth(self, cell: Cell) -> tuple[Statistic, Statistic]:
        """Attacked over clean bits per pixel: the ratio of the means, and the mean of the ratios."""
        return inflation(cell, self.clean_of(cell))

    def clean_of(self, cell: Cell) -> Cell:
        """The same pictures clean."""
        row = cell.rows[0]
        names = [row.picture.name for row in cell.rows]
        return self.clean(cell.line.model, row.quality, row.picture.crop, names)

    def _cells(self, quality: float, crop: int | None) -> Iterator[Cell]:
        for part in self.parts:
            if (part.quality, part.crop) == (quality, crop):
                yield from part.cells


def _one(cells: Sequence[Cell], model: str, what: str, names: Sequence[str]) -> Cell:
    """The cell of a model that has most pictures, and of it those named (all, if none are)."""
    found = [cell for cell in cells if cell.line.model == model]
    most = max((len(cell.rows) for cell in found), default=0)
    chosen = [cell.of_pictures(names) if names else cell for cell in found if len(cell.rows) == most]
    if len(chosen) != 1 or len(chosen[0].rows) < len(names):
        raise SystemExit(f"there are {len(chosen)} results of {model}, {what}, with {most} pictures")
    return chosen[0]


def attacks(results: Results, asked: Sequence[tuple[str, int, Sequence[str]]]) -> Iterator[Line]:
    """Attacks, each with its models, and all figures of the protocol."""
    yield (
        *("attack", "model", "pictures", "A", "bpp (clean)", "bpp / clean", "mean ratio"),
        *("PSNR (clean)", "PSNR to x*", "ΔJ"),
    )
    for label, steps, models in asked:
        for model in models:
            cell = results.under(label, model, steps)
            clean = results.clean_of(cell)
            ratio, ratios = results.growth(cell)
            yield (
                *(_attack(label, steps), model, str(len(cell.rows)), _gain(cell)),
                f"{_mean(cell, 'bpp', 3)} ({_mean(clean, 'bpp', 3)})",
                *(f"{ratio.mean:.3f}", _shown(ratios, 3)),
                f"{_mean(cell, 'psnr', 2)} ({_mean(clean, 'psnr', 2)})",
                *(_mean(cell, "psnr_own", 2), _mean(cell, "score_change", 3)),
            )


def more(results: Results, asked: Sequence[tuple[str, int, float]], model: str = BASE) -> Iterator[Line]:
    """Attacks on a model, the first pictures, gradients in bfloat16."""
    yield ("attack", "A", "bpp / clean", "mean ratio", "PSNR")
    for label, steps, epsilon in asked:
        cell = results.under(label, model, steps, epsilon=epsilon, precision="bfloat16", names=FIRST)
        ratio, ratios = results.growth(cell)
        noise = "" if epsilon == 5e-4 else f", ε = {_power(epsilon)}"
        name = _attack(label, steps, noise)
        yield (
            name,
            _gain(cell),
            f"{ratio.mean:.3f}",
            f"{ratios.mean:.3f}",
            _mean(cell, "psnr", 2),
        )


def clean(results: Results) -> Iterator[Line]:
    """Rate, PSNR and J of whole pictures."""
    models = (BASE, ROBUST, MA2023, TEACHER)
    yield ("quality", f"{BASE}: bpp, dB, J", *models[1:])
    for quality in QUALITIES:
        yield (f"{quality:g}", *(_point(results.clean(model, quality, None)) for model in models))


def whole(results: Results, model: str) -> Iterator[Line]:
    """Whole pictures at each quality, beside hyper-base where it is another model."""
    beside = model != BASE
    yield ("quality", "bpp", "dB", "J", *(["of hyper-base's"] if beside else []), "worst picture, dB")
    for quality in QUALITIES:
        cell = results.clean(model, quality, None)
        share = [f"{cell.score / results.clean(BASE, quality, None).score:.2f}"] if beside else []
        point = _point(cell).split(", ")
        yield (f"{quality:g}", *point, *share, f"{cell.worst.figures.psnr:.2f}")


def table_1(results: Results) -> Iterator[Line]:
    """Table 1 of the paper, and ours below it."""
    yield ("model", "clean", "psnr attack", "bpp attack")
    for name, *points in PAPER_TABLE_1:
        yield (name, *(f"{bpp:.3f}, {psnr:.2f}" for bpp, psnr in points))
    for model in (BASE, MA2023, ROBUST):
        cells = [results.clean(model), results.under("paper:psnr", model, 200), results.under("paper:bpp", model, 100)]
        yield (model, *(f"{_mean(cell, 'bpp', 3)}, {_mean(cell, 'psnr', 2)}" for cell in cells))


def hardened(results: Results) -> Iterator[Line]:
    """What the strongest attack makes of an ordinary model and of hardened ones."""
    yield ("model", "PSNR, clean", "PSNR, attacked", "A", "size, attacked / clean", "J, whole Kodak")
    for model in (BASE, MA2023, ROBUST):
        psnr, size = results.under("strong:psnr", model, 200), results.under("strong:bpp", model, 100)
        yield (
            *(model, f"{_mean(results.clean_of(psnr), 'psnr', 2)} dB", f"{_mean(psnr, 'psnr', 2)} dB"),
            *(f"{psnr.statistic('gain').mean:.2f}", f"{results.growth(size)[0].mean:.2f}"),
            f"{results.clean(model, crop=None).score:.3f}",
        )


def strongest(results: Results) -> Iterator[Line]:
    """What the strongest attack reaches, beside the paper's."""
    yield (
        *("model", "A, `paper`", "A, `strong`", "bpp / clean, `paper`", "bpp / clean, `strong`"),
        "ΔJ of the rate attack, `strong`",
    )
    for model in (BASE, MA2023, ROBUST):
        gains = [results.under(f"{method}:psnr", model, 200).statistic("gain") for method in ("paper", "strong")]
        files = [results.under(f"{method}:bpp", model, 100) for method in ("paper", "strong")]
        yield (
            model,
            *(_shown(gain, 2) for gain in gains),
            *(_shown(results.growth(cell)[0], 3) for cell in files),
            _shown(files[1].statistic("score_change"), 3),
        )


def seeds(results: Results) -> Iterator[Line]:
    """hyper-ma2023 and hyper-robust, two seeds each, at three qualities, the first pictures."""
    yield (
        *(
            "quality",
            "A of hyper-ma2023, both seeds",
            "of hyper-robust",
            "difference",
            f"A {MINUS} 1, of hyper-ma2023's",
        ),
        *("bpp / clean of hyper-ma2023", "of hyper-robust", "excess, of hyper-ma2023's"),
    )
    for quality in (2.0, 4.0, 6.0):

        def both(label: str, model: str, steps: int, quality: float = quality) -> list[Cell]:
            names = (model, SECOND_SEED[model])
            return [results.under(label, name, steps, quality=quality, names=FIRST) for name in names]

        theirs, ours = (both("strong:psnr", model, 200) for model in (MA2023, ROBUST))
        # means over the seeds, picture by picture
        gains = [[mean(gains) for gains in zip(*map(_gains, cells), strict=True)] for cells in (theirs, ours)]
        difference = Statistic.of(ours - theirs for theirs, ours in zip(*gains, strict=True))
        growths = [
            [results.growth(cell)[0].mean for cell in both("strong:bpp", model, 100)] for model in (MA2023, ROBUST)
        ]
        yield (
            f"{quality:g}",
            *("; ".join(_gain(cell) for cell in cells) for cells in (theirs, ours)),
            _shown(difference, 2),
            f"{(mean(gains[1]) - 1) / (mean(gains[0]) - 1):.2f}",
            *("; ".join(f"{growth:.3f}" for growth in each) for each in growths),
            f"{(mean(growths[1]) - 1) / (mean(growths[0]) - 1):.2f}",
        )


def _gains(cell: Cell) -> list[float]:
    return [gain for row in cell.rows if (gain := row.figures.gain) is not None]


def bounded_controls(results: Results) -> Iterator[Line]:
    """Controls within the bounds of the threat models, as `paper` and `strong` are."""
    yield (
        "model",
        *(f"A, `{method}` psnr" for method in ("offset", "noise", "fgsm")),
        *(f"bpp / clean, `{method}` bpp" for method in ("noise", "fgsm")),
    )
    for model in (BASE, MA2023, ROBUST, CONTROL):
        yield (
            model,
            *(_gain(results.under(f"{method}:psnr", model, 1)) for method in ("offset", "noise", "fgsm")),
            *(_growth(results, results.under(f"{method}:bpp", model, 1)) for method in ("noise", "fgsm")),
        )


def curves(results: Results) -> Iterator[Line]:
    """The models over the qualities, the first pictures."""
    yield (
        *("quality", "model", "clean: bpp, dB", "PSNR, `paper` psnr", "A", "PSNR, `strong` psnr", "A"),
        *("bpp / clean, `paper` bpp", "`strong` bpp"),
    )
    for quality in (2.0, 4.0, 6.0):
        for model in (BASE, MA2023, ROBUST):
            under = partial(results.under, model=model, quality=quality, names=FIRST)
            cells = [under(f"{method}:psnr", steps=200) for method in ("paper", "strong")]
            files = [under(f"{method}:bpp", steps=100) for method in ("paper", "strong")]
            clean = results.clean(model, quality, names=FIRST)
            yield (
                *(f"{quality:g}", model, f"{_mean(clean, 'bpp', 3)}, {_mean(clean, 'psnr', 2)}"),
                *(text for cell in cells for text in (_mean(cell, "psnr", 2), _gain(cell))),
                *(_growth(results, cell) for cell in files),
            )


def epsilons(results: Results) -> Iterator[Line]:
    """The default budget and twice that, the first pictures."""
    yield (
        "model",
        "PSNR, clean",
        *(f"PSNR, `{method}` psnr, ε = {e}" for method in ("paper", "strong") for e in ("5e-4", "1e-3")),
        "A, `paper`, ε = 1e-3",
        "A, `strong`, ε = 1e-3",
    )
    for model in (BASE, MA2023, ROBUST):
        under = partial(results.under, model=model, steps=200, names=FIRST)
        cells = [under(f"{method}:psnr", epsilon=epsilon) for method in ("paper", "strong") for epsilon in (5e-4, 1e-3)]
        yield (
            *(model, _mean(results.clean_of(cells[0]), "psnr", 2), *(_mean(cell, "psnr", 2) for cell in cells)),
            *(_gain(cell) for cell in cells[1::2]),
        )


def theirs(results: Results) -> Iterator[Line]:
    """Ma2023's attack, which knows no bound, on its own model and on others, the first pictures."""
    yield ("model", "PSNR, clean", "PSNR, `ma2023` without bound", "A", "bpp / clean", "A within the bound")
    for model in (BASE, MA2023, ROBUST):
        free, bounded = (results.under(f"ma2023:psnr{bound}", model, 200, names=FIRST) for bound in ("-free", ""))
        yield (
            *(model, _mean(results.clean_of(free), "psnr", 2), _mean(free, "psnr", 2), _gain(free)),
            *(_growth(results, free), _gain(bounded)),
        )


def masking(results: Results) -> Iterator[Line]:
    """What would show that gradients of hyper-robust are masked, the first pictures."""
    yield ("attack on hyper-robust", "A", "PSNR")
    bounded = partial(results.under, "strong:psnr", ROBUST, names=FIRST, precision="bfloat16")
    for name, cell in (
        *((f"`strong`, N = {steps}", bounded(steps)) for steps in (50, 200, 400)),
        ("`strong`, crafted on hyper-base, N = 200", bounded(200, surrogate=BASE)),
        ("`strong`, ε = 1e-2, N = 200", bounded(200, epsilon=1e-2)),
        ("`fgsm`", results.under("fgsm:psnr-free", ROBUST, 1, names=FIRST)),
    ):
        yield (name, _gain(cell), _mean(cell, "psnr", 2))


def resolution(results: Results) -> Iterator[Line]:
    """Photographs of some megapixels: clean ones whole, attacked ones as crops."""
    yield (*("model", "whole: bpp, dB, J", "crops: bpp, dB", "PSNR, `paper` psnr", "A", "bpp / clean, `paper` bpp"),)
    for model in (BASE, ROBUST):
        psnr, size = results.under("paper:psnr", model, 200), results.under("paper:bpp", model, 100)
        crops = results.clean_of(psnr)
        yield (
            *(model, _point(results.clean(model, crop=None)), f"{_mean(crops, 'bpp', 3)}, {_mean(crops, 'psnr', 2)}"),
            *(_mean(psnr, "psnr", 2), _gain(psnr), _growth(results, size)),
        )


CLASSICAL = ("jpeg", "jpeg2000", "webp", "avif", "heic", "jxl")


def classical(results: Results) -> Iterator[Line]:
    """Classical codecs under controls and under what is crafted on hyper-base."""
    yield (
        *("codec", "bpp (clean)", "A, `offset`", "A, `noise`", "bpp / clean, `noise`"),
        *("A, `paper` psnr", "PSNR, `paper` psnr", "bpp / clean, `paper` bpp"),
    )
    for model in (BASE, *CLASSICAL):
        surrogate = None if model == BASE else BASE

        def under(label: str, steps: int, model: str = model, surrogate: str | None = surrogate) -> Cell:
            return results.under(label, model, steps, surrogate=surrogate)

        offset, noise = under("offset:psnr-free", 1), under("noise:psnr-free", 1)
        psnr, bpp = under("paper:psnr", 200), under("paper:bpp", 100)
        yield (
            *(model, _mean(results.clean(model), "bpp", 3)),
            *(_gain(cell) for cell in (offset, noise)),
            _growth(results, noise),
            *(_gain(psnr), _mean(psnr, "psnr", 2)),
            _growth(results, bpp),
        )


def cheng(results: Results) -> Iterator[Line]:
    """Both architectures, the first pictures."""
    yield ("", *CHENG)
    cells = [results.clean(model, names=FIRST) for model in CHENG]
    yield ("clean: bpp, dB, J", *map(_point, cells))
    yield (
        "J, of its start's",
        "",
        f"{cells[1].score / cells[0].score:.3f}",
        "",
        f"{cells[3].score / cells[2].score:.3f}",
    )

    def row(name: str, label: str, steps: int, show: Callable[[Cell], str]) -> Line:
        return (
            name,
            *(show(results.under(label, model, steps, names=FIRST)) for model in CHENG),
        )

    yield row("A, `paper` psnr", "paper:psnr", 200, _gain)
    yield row("A, `strong` psnr", "strong:psnr", 200, _gain)
    yield row("PSNR, `strong` psnr", "strong:psnr", 200, lambda cell: _mean(cell, "psnr", 2))
    for method in ("paper", "strong"):
        yield row(f"bpp / clean, `{method}` bpp", f"{method}:bpp", 100, lambda cell: _growth(results, cell))
    yield row("ΔJ, `strong` bpp", "strong:bpp", 100, lambda cell: _shown(cell.statistic("score_change"), 3))


def fast(results: Results) -> Iterator[Line]:
    """Both starts of `fast` and what became of them."""

    def score(model: str) -> float:
        return results.clean(model, crop=None).score

    def gain(model: str, method: str) -> float:
        return results.under(f"{method}:psnr", model, 200).statistic("gain").mean

    def growth(model: str, method: str) -> float:
        return results.growth(results.under(f"{method}:bpp", model, 100))[0].mean

    def change(model: str, method: str) -> float:
        return results.under(f"{method}:bpp", model, 100).statistic("score_change").mean

    yield ("", BASE, "`fast`", "", CONTROL, "`fast`", "")
    starts = [score(model) for model in (BASE, CONTROL)]
    ends = [score(model) for model in (ROBUST, FAST_CONTROL)]
    both = zip(starts, ends, strict=True)
    yield ("J, whole Kodak", *(text for a, b in both for text in (f"{a:.3f}", f"{b:.3f}", f"{b / a:.3f} of it")))
    for name, of, digits, what, least in (
        ("A, `{}` psnr", gain, 2, f"A{MINUS}1 ", 1),
        ("bpp / clean, `{}`", growth, 3, "excess ", 1),
        ("ΔJ, `{}` bpp", change, 3, "", 0),
    ):
        for method in ("paper", "strong"):
            cells: list[str] = []
            for start, end in ((BASE, ROBUST), (CONTROL, FAST_CONTROL)):
                before, after = of(start, method), of(end, method)
                share = (after - least) / (before - least)
                cells += [f"{before:.{digits}f}", f"{after:.{digits}f}", f"{what}{share:.2f} of it"]
            yield (name.format(method), *cells)


IDEAS = {
    "`fast`": "fast",
    "`ma2023`": "ma2023",
    "stage I": "stage-i",
    "stage II": "stage-ii",
    "without smooth_loss": "stage-ii-without-smooth-loss",
    "without the gradient of bpp_main": "stage-ii-without-smooth-bpp",
    "without the Jacobian of y": "stage-ii-without-smooth-latents",
    "without the teacher": "stage-ii-without-the-teacher",
}
"""What scripts/ablations.sh makes of a start, and how it calls the models, but for their seeds."""


def ablations(results: Results, start: str) -> Iterator[Line]:
    """Ways of hardening for the same compute, each seed; in brackets what overlaps with stage II whole."""
    digits = (3, 2, 2, 3, 3, 3)
    yield (
        *("", "J, whole Kodak", "A, `paper` psnr", "A, `strong` psnr", "bpp / clean, `paper` bpp"),
        *("bpp / clean, `strong` bpp", "ΔJ, `strong` bpp"),
    )

    def figures(model: str) -> Line:
        """As they are shown."""
        psnr = [results.under(f"{method}:psnr", model, 200, names=FIRST) for method in ("paper", "strong")]
        rate = [results.under(f"{method}:bpp", model, 100, names=FIRST) for method in ("paper", "strong")]
        values = (
            results.clean(model, crop=None).score,
            *(cell.statistic("gain").mean for cell in psnr),
            *(results.growth(cell)[0].mean for cell in rate),
            rate[1].statistic("score_change").mean,
        )
        return tuple(f"{value:.{digit}f}" for value, digit in zip(values, digits, strict=True))

    def seeds(model: str) -> list[Line]:
        there = [name for name in (f"{model}-0", f"{model}-1") if name in results.models]
        return list(zip(*map(figures, there), strict=True))

    whole = seeds(IDEAS["stage II"])
    yield (start, *figures(start))
    for name, model in IDEAS.items():
        compared = name.startswith("without")
        yield (
            name,
            *(
                f"({'; '.join(values)})" if compared and _overlap(values, other) else "; ".join(values)
                for values, other in zip(seeds(model), whole, strict=True)
            ),
        )


def _overlap(values: Line, other: Line) -> bool:
    """Whether the ranges of two ways overlap; with one seed there are no ranges."""
    if len(values) == 1:
        return False
    numbers, others = (sorted(map(float, line)) for line in (values, other))
    return numbers[0] <= others[-1] and others[0] <= numbers[-1]


ALL = (BASE, ROBUST, CONTROL)
EVERY = (BASE, ROBUST, MA2023, TEACHER, CONTROL, "cheng-base", "cheng-robust")
FOLDERS = {"seeds": "curves", "curves": "curves", "resolution": "clic-test", "ablations-control": "ablations-control"}
"""Where the rows of a table are, if not in kodak."""
TABLES: Mapping[str, Callable[[Results], Iterator[Line]]] = {
    "on-psnr": lambda results: attacks(
        results,
        [
            ("paper:psnr", 200, ALL),
            ("strong:psnr", 200, (BASE, MA2023, ROBUST, CONTROL)),
            ("pgd:psnr-free", 200, (BASE, CONTROL)),
            ("ma2023:psnr-free", 200, (BASE,)),
            *((f"{method}:psnr-free", 1, ALL) for method in ("fgsm", "noise-uniform")),
            *((f"{method}:psnr-free", 1, EVERY) for method in ("noise", "offset")),
        ],
    ),
    "on-the-rate": lambda results: attacks(
        results,
        [
            *((f"{method}:bpp", 100, (BASE, MA2023, ROBUST, CONTROL)) for method in ("paper", "strong")),
            *((f"{method}:bpp-free", 1, ALL) for method in ("fgsm", "noise")),
        ],
    ),
    "more-on-psnr": lambda results: more(
        results,
        [
            *((f"{method}:psnr-free", 200, 5e-4) for method in ("strong", "pgd", "ma2023", "pgd-linf", "ifgsm")),
            *(("strong:psnr", steps, epsilon) for steps, epsilon in ((200, 5e-4), (400, 5e-4), (200, 1e-3))),
        ],
    ),
    "more-on-the-rate": lambda results: more(
        results,
        [
            *((f"{method}:bpp-free", 100, 5e-4) for method in ("strong", "paper", "pgd", "pgd-linf", "ifgsm")),
            *(("strong:bpp", steps, 5e-4) for steps in (100, 200, 400)),
            ("strong:bpp", 100, 1e-3),
        ],
    ),
    "more-on-control": lambda results: more(
        results,
        [
            *((f"{method}:psnr-free", 200, 5e-4) for method in ("strong", "paper")),
            ("strong:psnr", 200, 5e-4),
            *((f"{method}:psnr", 200, 1e-3) for method in ("strong", "paper")),
        ],
        CONTROL,
    ),
    "clean": clean,
    "hyper-base": lambda results: whole(results, BASE),
    "hyper-robust": lambda results: whole(results, ROBUST),
    "table-1": table_1,
    "hardened": hardened,
    "strongest": strongest,
    "classical": classical,
    "seeds": seeds,
    "cheng": cheng,
    "bounded-controls": bounded_controls,
    "curves": curves,
    "epsilons": epsilons,
    "theirs": theirs,
    "masking": masking,
    "resolution": resolution,
    "fast": fast,
    "ablations-control": lambda results: ablations(results, CONTROL),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page has other tables")
    check = parser.parse_args().check

    folders = {name: Results(sections(read_rows(RESULTS / name))) for name in {"kodak", *FOLDERS.values()}}

    def table(name: str) -> str:
        return _markdown(list(TABLES[name](folders[FOLDERS.get(name, "kodak")])))

    others = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = page.read_text(encoding="utf-8")
        new = MARK.sub(lambda found: found[1] + table(found[2]), text)
        if new == text:
            continue
        others.append(page.name)
        if not check:
            page.write_text(new, encoding="utf-8")
    if check and others:
        raise SystemExit(f"{', '.join(others)}: tables are not those of the rows; run python scripts/tables.py")


def _markdown(lines: Sequence[Line]) -> str:
    header, *rows = (f"| {' | '.join(line)} |\n" for line in lines)
    return "".join([header, "|---" * len(lines[0]) + "|\n", *rows])


def _attack(label: str, steps: int, noise: str = "") -> str:
    method, threat = label.split(":")
    return f"`{method}`{' without bound' * threat.endswith('-free')}{noise}{f', N = {steps}' * (steps > 1)}"


def _power(epsilon: float) -> str:
    return f"{epsilon:.0e}".replace("e-0", "e-")


def _shown(statistic: Statistic, digits: int) -> str:
    return f"{statistic.mean:.{digits}f} ± {statistic.error:.{digits}f}"


def _gain(cell: Cell) -> str:
    return _shown(cell.statistic("gain"), 2)


def _growth(results: Results, cell: Cell) -> str:
    return f"{results.growth(cell)[0].mean:.3f}"


def _mean(cell: Cell, figure: str, digits: int) -> str:
    return f"{cell.statistic(figure).mean:.{digits}f}"


def _point(cell: Cell) -> str:
    return f"{_mean(cell, 'bpp', 3)}, {_mean(cell, 'psnr', 2)}, {cell.score:.3f}"


if __name__ == "__main__":
    main()

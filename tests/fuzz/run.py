"""Fuzz the reader: `python tests/fuzz/run.py --count 1000000 --jobs 8`.

Each batch of a thousand files (a hundred models) is made from its own seed, so that findings can be made again with the
same `--seed`. Prints distinct inputs by kind and by the stage where they ended, and exits with 1 if anything was found.
`--page docs/reliability.md` puts that there, too.
"""

import argparse
import datetime
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing import get_context
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

from harness import STAGES, Harness, Tally, run_bundles  # noqa: E402

FILES, MODELS = 1000, 100
"""Inputs of a batch."""
BEGIN, END = "<!-- fuzzing -->", "<!-- end -->"
"""Between these a page has what was found last."""
MODEL_STAGES = ("manifest", "parts", "decoding", "picture")


@cache
def _harness() -> Harness:
    return Harness()


def run_batch(kind: str, batch: str, count: int) -> Tally:
    """Run one batch in this process."""
    return run_bundles(batch, count) if kind == "models" else _harness().run(batch, count)


def batches(seed: str, files: int, models: int) -> Iterator[tuple[str, str, int]]:
    """Kind, seed and size of every batch."""
    for kind, total, size in (("files", files, FILES), ("models", models, MODELS)):
        for first in range(0, total, size):
            yield kind, f"{seed}-{kind}-{first // size}", min(size, total - first)


def run(seed: str, files: int, models: int, jobs: int) -> Tally:
    """Run all batches, each in a worker process; one that dies is a finding."""
    whole = Tally()
    waiting = list(batches(seed, files, models))
    while waiting:
        # few at a time, so that a death costs little and names its batch
        now, waiting = waiting[: 8 * jobs], waiting[8 * jobs :]
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            futures = [(batch, pool.submit(run_batch, *batch)) for batch in now]
            for (kind, name, _), future in futures:
                try:
                    whole.add(future.result())
                except BrokenProcessPool:
                    whole.findings.append((f"{kind}: the process died in batch {name} or one beside it", b""))
    return whole


def report(tally: Tally, seconds: float) -> str:
    """Tables of what was counted."""
    lines, counted = [], tally.stages
    for title, stages, kinds in (
        ("files", STAGES, sorted({kind for kind, _ in counted} - {"model"})),
        ("models", MODEL_STAGES, ["model"] if any(kind == "model" for kind, _ in counted) else []),
    ):
        if not kinds:
            continue
        lines += [f"| {title} | all | {' | '.join(stages)} |", "|---" * (len(stages) + 2) + "|"]
        for kind in kinds:
            counts = [counted[kind, stage] for stage in stages]
            lines.append(f"| {kind} | {sum(counts):,} | {' | '.join(f'{count:,}' for count in counts)} |")
        lines.append("")
    files = {key: count for key, count in counted.items() if key[0] != "model"}
    repaired = {key: count for key, count in files.items() if key[0] != "bytes"}
    if repaired:
        total = sum(repaired.values())
        coder = sum(count for (_, stage), count in repaired.items() if stage not in ("header", "chunks"))
        shown = sum(count for (_, stage), count in repaired.items() if stage in ("synthesis", "picture"))
        lines.append(
            f"{total:,} of {sum(files.values()):,} files have repaired checksums; {coder / total:.0%} of these reached "
            f"the entropy coder, {shown / total:.0%} the synthesis."
        )
    lines.append(
        f"{len(tally.inputs):,} distinct inputs in {seconds:,.0f} s; the slowest took {tally.slowest:.2f} s; "
        f"at most {tally.memory / 1e6:,.0f} MB; {len(tally.findings)} findings."
    )
    return "\n".join([*lines, *sorted({what for what, _ in tally.findings})])


def has_place(page: Path) -> bool:
    """Whether a page has both marks, once and in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line in (BEGIN, END)] == [BEGIN, END]


def put(page: Path, text: str) -> None:
    """Put a report between the two marks of a page."""
    before, rest = page.read_text(encoding="utf-8").split(f"{BEGIN}\n")
    after = rest.split(f"{END}\n")[1]
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}\n{after}", encoding="utf-8")


def main() -> None:
    """Fuzz as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="hostile files")
    parser.add_argument("--models", type=int, default=0, help="hostile models")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--save", type=Path, help="folder for the inputs of findings")
    parser.add_argument("--page", type=Path, help="page that has a place for the tables")
    arguments = parser.parse_args()
    if arguments.page is not None and not has_place(arguments.page):
        parser.error(f"{arguments.page} has no lines {BEGIN} and {END}")
    start = time.perf_counter()
    tally = run(arguments.seed, arguments.count, arguments.models, arguments.jobs)
    told = report(tally, time.perf_counter() - start)
    print(told)
    if arguments.page is not None:
        command = " ".join(["python", "tests/fuzz/run.py", *sys.argv[1:]])
        put(arguments.page, f"{datetime.date.today():%-d %B %Y}: `{command}`\n\n{told}")
    if arguments.save is not None:
        arguments.save.mkdir(parents=True, exist_ok=True)
        for index, (_, data) in enumerate(tally.findings):
            (arguments.save / f"finding-{index}").write_bytes(data)
    sys.exit(bool(tally.findings))


if __name__ == "__main__":
    main()

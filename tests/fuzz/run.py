"""Fuzz the reader: `python tests/fuzz/run.py --count 1000000 --models 100000 --jobs 2 --state state --save findings`.

Each batch of a thousand files (a hundred models) is made from its own seed, and batches follow until there are as many
distinct inputs as were asked for, so that the same `--seed` gives the same counts and findings. Prints them by kind and
by the stage where they ended, and exits with 1 if anything was found, which is printed at once.

`--state FILE` keeps what was counted: a run that was stopped, with Ctrl-C or by force, goes on where its last round of
batches ended. `--page docs/reliability.md` puts the tables there, too.
"""

import argparse
import datetime
import faulthandler
import json
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import cache
from hashlib import blake2b
from multiprocessing import get_context
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

from harness import MODEL_STAGES, STAGES, Harness, Tally, run_bundles  # noqa: E402

SIZES = {"models": 100, "files": 1000}
"""Inputs of a batch."""
STUCK = 900
"""Seconds after which a batch is given up: some call never came back."""
BEGIN, END = "<!-- fuzzing -->", "<!-- end -->"
"""Between these a page has what was found last."""


@dataclass
class Count:
    """What was counted of one sort of input: the stage where each distinct one ended, by its hash, and what was found.

    `batches` is how many were run.
    """

    batches: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    memory: int = 0
    findings: list[str] = field(default_factory=list)
    ended: list[tuple[str, str]] = field(default_factory=list)
    inputs: dict[int, int] = field(default_factory=dict)
    """Hash to index in `ended`, the kinds and stages that there are."""

    @property
    def stages(self) -> Counter[tuple[str, str]]:
        """How many inputs of each kind ended in each stage."""
        found = Counter(self.inputs.values())
        return Counter({ended: found[index] for index, ended in enumerate(self.ended)})

    def add(self, tally: Tally) -> None:
        """Take in a batch; an input that came before counts as what it was then."""
        self.batches += 1
        self.seconds += tally.seconds
        self.slowest, self.memory = max(self.slowest, tally.slowest), max(self.memory, tally.memory)
        self.findings += [what for what, _ in tally.findings]
        for digest, ended in tally.inputs.items():
            if ended not in self.ended:
                self.ended.append(ended)
            self.inputs.setdefault(digest, self.ended.index(ended))


@cache
def _harness() -> Harness:
    return Harness()


def run_batch(sort: str, batch: str, note: Path | None = None) -> Tally:
    """Run one batch in this process, which ends if it gets stuck."""
    faulthandler.dump_traceback_later(STUCK, exit=True)
    try:
        return (run_bundles if sort == "models" else _harness().run)(batch, SIZES[sort], note)
    finally:
        faulthandler.cancel_dump_traceback_later()


def run_alone(sort: str, batch: str) -> Tally:
    """Run a batch in a process of its own; if that dies, the input which it died of is a finding."""
    with tempfile.TemporaryDirectory() as scratch:
        note = Path(scratch) / "input"
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            try:
                return pool.submit(run_batch, sort, batch, note).result()
            except BrokenProcessPool:
                data = note.read_bytes() if note.exists() else b""
                return Tally(findings=[(f"{sort}: the process died or got stuck in batch {batch}", data)])


def run(seed: str, wanted: dict[str, int], jobs: int, state: Path | None, save: Path | None) -> dict[str, Count]:
    """Run batches in worker processes until there are as many distinct inputs of each sort as wanted."""
    counts = load_state(state, seed)
    pool: ProcessPoolExecutor | None = None
    for sort, count in counts.items():
        while len(count.inputs) < wanted[sort]:
            # no more than are needed, so that what is counted does not depend on the number of jobs
            needed = -(-(wanted[sort] - len(count.inputs)) // SIZES[sort])
            numbers = range(count.batches, count.batches + min(needed, 8 * jobs))
            names = [f"{seed}-{sort}-{number}" for number in numbers]
            pool = pool or ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))
            try:
                tallies = list(pool.map(run_batch, [sort] * len(names), names))
            except BrokenProcessPool:
                pool = None
                tallies = [run_alone(sort, name) for name in names]
            for tally in tallies:
                count.add(tally)
                for what, data in tally.findings:
                    _tell(what, data, save)
            if state is not None:
                save_state(state, seed, counts)
            print(f"{len(count.inputs):,} of {wanted[sort]:,} {sort}, {count.seconds:,.0f} s", flush=True)
    if pool is not None:
        pool.shutdown()
    return counts


def _tell(what: str, data: bytes, save: Path | None) -> None:
    name = f"finding-{blake2b(data, digest_size=6).hexdigest()}"
    print(f"{name}: {what}", flush=True)
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
        (save / name).write_bytes(data)


def save_state(path: Path, seed: str, counts: dict[str, Count]) -> None:
    """Write what was counted, whole or not at all."""
    facts = {sort: {**asdict(count), "inputs": None} for sort, count in counts.items()}
    arrays: dict[str, np.ndarray] = {"facts": np.array(json.dumps({"seed": seed, "counts": facts}))}
    for sort, count in counts.items():
        arrays[f"{sort}.hashes"] = np.array(list(count.inputs.keys()), np.uint64)
        arrays[f"{sort}.ended"] = np.array(list(count.inputs.values()), np.uint8)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
    temporary.replace(path)


def load_state(path: Path | None, seed: str) -> dict[str, Count]:
    """Read what was counted before: nothing if there is no such file. Exits if it is of another seed."""
    if path is None or not path.exists():
        return {sort: Count() for sort in SIZES}
    with np.load(path, allow_pickle=False) as arrays:
        facts = json.loads(arrays["facts"].item())
        if facts["seed"] != seed:
            sys.exit(f"{path} is of seed {facts['seed']}, not {seed}")
        counts = {}
        for sort in SIZES:
            fields = facts["counts"][sort]
            inputs = zip(arrays[f"{sort}.hashes"].tolist(), arrays[f"{sort}.ended"].tolist(), strict=True)
            ended = [(kind, stage) for kind, stage in fields["ended"]]
            counts[sort] = Count(**{**fields, "ended": ended, "inputs": dict(inputs)})
    return counts


def report(counts: dict[str, Count]) -> str:
    """Tables of what was counted."""
    lines = []
    for sort, stages in (("files", STAGES), ("models", MODEL_STAGES)):
        counted = counts[sort].stages
        if not counted:
            continue
        kinds = {kind: [counted[kind, stage] for stage in stages] for kind in sorted({kind for kind, _ in counted})}
        kinds["together"] = [sum(column) for column in zip(*kinds.values(), strict=True)]
        lines += [f"| {sort} | all | {' | '.join(stages)} |", "|---" * (len(stages) + 2) + "|"]
        for kind, ended in kinds.items():
            lines.append(f"| {kind} | {sum(ended):,} | {' | '.join(f'{number:,}' for number in ended)} |")
        lines.append("")
    files = counts["files"].stages
    repaired = {key: number for key, number in files.items() if key[0] != "bytes"}
    if repaired:
        total = sum(repaired.values())
        shown = sum(number for (_, stage), number in repaired.items() if stage in ("synthesis", "picture"))
        coder = shown + sum(number for (_, stage), number in repaired.items() if stage in ("coder", "latents"))
        lines.append(
            f"{total:,} of {sum(files.values()):,} files have repaired checksums; {coder / total:.0%} of these reached "
            f"the entropy coder, {shown / total:.0%} the synthesis."
        )
    both = counts.values()
    findings = sorted(what for count in both for what in count.findings)
    inputs, seconds = sum(len(count.inputs) for count in both), sum(count.seconds for count in both)
    slowest, memory = max(count.slowest for count in both), max(count.memory for count in both)
    lines.append(
        f"{inputs:,} distinct inputs in {seconds:,.0f} s of one core; the slowest took {slowest:.2f} s; "
        f"at most {memory / 1e6:,.0f} MB; {len(findings)} findings."
    )
    return "\n".join([*lines, *findings])


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
    parser.add_argument("--count", type=int, default=10_000, help="distinct hostile files")
    parser.add_argument("--models", type=int, default=0, help="distinct hostile models")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--state", type=Path, help="file of what was counted, to go on with")
    parser.add_argument("--save", type=Path, help="folder for the inputs of findings")
    parser.add_argument("--page", type=Path, help="page that has a place for the tables")
    arguments = parser.parse_args()
    if arguments.page is not None and not has_place(arguments.page):
        parser.error(f"{arguments.page} has no lines {BEGIN} and {END}")
    wanted = {"files": arguments.count, "models": arguments.models}
    counts = run(arguments.seed, wanted, arguments.jobs, arguments.state, arguments.save)
    told = report(counts)
    print(told)
    if arguments.page is not None:
        command = " ".join(["python", "tests/fuzz/run.py", *sys.argv[1:]])
        put(arguments.page, f"{datetime.date.today():%-d %B %Y}: `{command}`\n\n{told}")
    sys.exit(any(count.findings for count in counts.values()))


if __name__ == "__main__":
    main()

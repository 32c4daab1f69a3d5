"""The command line as its users meet it: real processes, exit codes, streams; and the batch engine alone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer

from robustcodec import container
from robustcodec.cli import batch, decode, encode, options
from robustcodec.cli.batch import Outcome, Result, Work, process, threads_each
from robustcodec.cli.console import Console, named
from robustcodec.errors import ImageError, ModelNotFound, UsageError
from robustcodec.files import Job, Plan, Shard, Unread, plan_outputs, read_input, write_output
from robustcodec.images import Picture, write_picture
from robustcodec.rate import STEP_WORTHWHILE, BitsPerPixel, FileSize, Psnr, Quality

ROOT = Path(container.__file__).parent.parent
HEAVY = ("numpy", "PIL", "onnxruntime", "torch", "rich", "constriction", "safetensors", "multiprocessing")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def environment(**extra: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **extra}


def cli(*arguments: str | bytes, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "robustcodec", *arguments]
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(command, capture_output=True, env=environment(), timeout=60, check=False, **options)


def sample_file(width: int = 768, height: int = 512) -> bytes:
    header = container.Header(
        width=width,
        height=height,
        payload=container.Payload.NETWORK,
        step=1024,
        fingerprint=bytes(range(1, 9)),
    )
    return container.pack(header, [container.Chunk(container.ChunkType.STRIP, bytes(1000))])


# Help, version, usage errors.


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from robustcodec.cli import main
sys.argv = ["robustcodec", "encode", "--help"]
try:
    main()
finally:
    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment(), timeout=60, check=True)
    assert b"--target-size" in done.stdout
    assert done.stderr.decode().strip() == "[]"


@pytest.mark.parametrize("command", ["encode", "decode", "info", "models", "train", "export"])
def test_every_command_has_help(command: str) -> None:
    done = cli(command, "--help")
    assert done.returncode == 0
    assert b"Usage:" in done.stdout
    assert done.stderr == b""


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version(option: str) -> None:
    assert cli(option).stdout.startswith(b"robustcodec 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encode", "a.png", "-q", "90"], "quality goes from 1 (small) to 6 (faithful) here, not to 90"),
        (
            ["encode", "a.png", "-q", "3", "--target-bpp", "1"],
            "--quality and --target-bpp exclude each other",
        ),
        (["encode", "a.png", "--target-size", "much"], "much is no size"),
        (["encode", "a.png", "--target-psnr", "-3"], "out of range"),
        (["encode", "a.png", "--json", "-o", "-"], "both write to standard output"),
        (["encode", "-", "--json"], "both write to standard output"),
        (["encode", "a.png", "-", "--json"], "both write to standard output"),
        (["decode", "-", "--json"], "both write to standard output"),
        (["encode", "."], ". is a folder; add --recursive"),
        (["encode", "a.png", "b.rbc"], "write -o b.rbc"),
        (["encode", "a.png", "a.jpg"], "a.png and a.jpg would both be written to a.rbc"),
        (["encode", "a.rbc"], "a.rbc would be overwritten by its own result"),
        (["decode", "a.rbc", "-o", "a.xyz"], "a.xyz is no format that can be written"),
        (["decode", "a.rbc", "--format", "gif"], "gif is no format"),
    ],
)
def test_contradictions_are_one_line_and_exit_2(here: Path, arguments: list[str], message: str) -> None:
    for name in ("a.png", "a.jpg", "a.rbc"):
        Path(name).write_bytes(b"x")
    done = cli(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("robustcodec: error: ")
    assert message in lines[0]
    assert sorted(os.listdir()) == ["a.jpg", "a.png", "a.rbc"]  # noqa: PTH208


@pytest.mark.parametrize("arguments", [["--nope"], ["encode"], ["encode", "a", "--jobs", "0"], ["nope"]])
def test_wrong_options_exit_2(arguments: list[str]) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


def test_a_lab_command_without_torch_says_what_to_install(here: Path) -> None:
    (here / "hidden").mkdir()
    code = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else find(name, *rest)
from robustcodec.cli import main
sys.argv = ["robustcodec", "train", "--data", "x", "-o", "y"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment(), check=False)
    assert done.returncode == 2
    assert done.stderr.decode().splitlines() == [
        "robustcodec: error: this command needs PyTorch; install it with: pip install 'robustcodec[lab]'"
    ]


@pytest.mark.parametrize(
    "arguments",
    [["models", "verify", "no-such-model"], ["models", "remove", "../x"], ["models", "add", "missing"]],
)
def test_models_that_are_not_there(here: Path, arguments: list[str]) -> None:
    done = cli(*arguments)
    assert (done.returncode, done.stdout) == (1, b"")
    assert [line.startswith("robustcodec: error: ") for line in done.stderr.decode().splitlines()] == [True]


def test_a_manifest_is_no_model(here: Path) -> None:
    Path("manifest.json").write_text("{}")
    done = cli("models", "add", "manifest.json")
    assert done.returncode == 1
    assert b"manifest.json is no model, since it has no manifest.json; give the folder of one" in done.stderr
    assert b"no/model is no model, since nothing of that name is there" in cli("models", "add", "no/model").stderr
    by_id = cli("models", "contract", "hyper-robust", "--data", ".")
    assert by_id.returncode == 1
    assert b"hyper-robust is no folder; give that of the model and not its id, since the manifest" in by_id.stderr


# info, and what all commands share: streams, names, signals.


def test_info_on_many_files(here: Path) -> None:
    Path("a.rbc").write_bytes(sample_file())
    Path("b.bin").write_bytes(sample_file(10, 20)[:-1])
    Path("c").write_bytes(b"")
    long = "x" * 300  # longer than a name can be
    done = cli("info", "b.bin", "c", "missing", long, "a.rbc")
    assert done.returncode == 1
    out, errors = done.stdout.decode().splitlines(), done.stderr.decode().splitlines()
    assert out == ["a.rbc: robustcodec 1.0, 768x512, network 0102030405060708, step 1.000, 1,034 bytes, 0.021 bpp"]
    assert [line.split(": ")[2] for line in errors] == [
        "b.bin",
        "c",
        "missing cannot be read",
        f"{long} cannot be read",
    ]


def test_info_as_json_and_with_sections(here: Path) -> None:
    Path("a.rbc").write_bytes(sample_file())
    Path("bad").write_bytes(b"bad")
    rows = [json.loads(line) for line in cli("info", "--json", "a.rbc", "bad", "-").stdout.splitlines()]
    assert [row["input"] for row in rows] == ["a.rbc", "bad", "-"]
    assert (rows[0]["width"], rows[0]["height"], rows[0]["step"]) == (768, 512, 1.0)
    assert rows[0]["bytes"] == sum(rows[0]["sections"].values()) == len(sample_file())
    assert "error" in rows[1]
    assert b"  header: " in cli("info", "-v", "a.rbc").stdout
    with Path("a.rbc").open("rb") as file:
        assert cli("info", "-", stdin=file).stdout.startswith(b"-: robustcodec 1.0")


def test_info_says_whether_a_file_is_dithered(here: Path) -> None:
    for name, seed in (("golden/odd", None), ("golden-dithered/dithered-odd", "793abf5999413ef6")):
        file = str(ROOT / "tests" / "data" / f"{name}.rbc")
        (row,) = map(json.loads, cli("info", "--json", file).stdout.splitlines())
        assert row["dither"] == seed
        assert (b", dithered, " in cli("info", file).stdout) == (seed is not None)


def test_info_of_a_folder_says_what_tells_of_models(here: Path) -> None:
    done = cli("info", ".")
    assert done.returncode == 1
    assert (
        b"error: .: this is a folder; info takes files, and `robustcodec models list -v` tells of models" in done.stderr
    )


def test_info_has_limits(here: Path) -> None:
    Path("a.rbc").write_bytes(sample_file())
    assert cli("info", "--max-pixels", "1000", "a.rbc").returncode == 1
    assert cli("info", "--max-pixels", "0", "a.rbc").returncode == 0


def test_hostile_names_are_cleaned(here: Path) -> None:
    name = b"x\x1b[2J\xff[red]\n.rbc"
    Path(os.fsdecode(name)).write_bytes(sample_file())
    done = cli("info", name)
    assert done.stdout.startswith(b"x\\x1b[2J\\xff[red]\\x0a.rbc: robustcodec")
    row = json.loads(cli("info", "--json", name).stdout)
    assert row["input"] == "x\x1b[2J\\xff[red]\n.rbc"
    assert row["input_b64"] == "eBtbMkr/W3JlZF0KLnJiYw=="
    assert b"\x1b" not in cli("info", b"missing\x1b[2J").stderr
    assert named(Path("plain"), "input") == {"input": "plain"}


def test_a_closed_pipe_is_quiet(here: Path) -> None:
    Path("a.rbc").write_bytes(sample_file())
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "robustcodec", "info", *["a.rbc"] * 5],
            stdout=writing,
            stderr=subprocess.PIPE,
            env=environment(),
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("closed", "arguments", "message"),
    [
        ("<&-", "info -", "standard input cannot be read"),
        (">&-", "info a.rbc", "standard output cannot be written"),
        (">&-", "info --json a.rbc", "standard output cannot be written"),
        (">&-", "--version", "Bad file descriptor"),
    ],
)
def test_data_to_or_from_a_closed_stream_is_an_error(here: Path, closed: str, arguments: str, message: str) -> None:
    Path("a.rbc").write_bytes(sample_file())
    done = shell(f"{arguments} {closed}")
    assert (done.returncode, done.stdout) == (1, b"")
    assert len(done.stderr.splitlines()) == 1 and message in done.stderr.decode()


def shell(line: str) -> subprocess.CompletedProcess[bytes]:
    """The command as a shell starts it, with arguments and redirections."""
    command = ["sh", "-c", f'exec "$0" -m robustcodec {line}', sys.executable]
    return subprocess.run(command, capture_output=True, env=environment(), timeout=60, check=False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full"])
def test_work_goes_on_where_nobody_hears_of_it(here: Path, where: str) -> None:
    Path("a.rbc").write_bytes(sample_file())
    done = shell(f"info missing a.rbc {where}")
    assert (done.returncode, done.stderr) == (1, b"")
    assert done.stdout.startswith(b"a.rbc: robustcodec 1.0")
    assert shell(f"info a.rbc {where}").returncode == 0


SLOW = """
import sys, time
from pathlib import Path
from robustcodec import cli, files
@cli.app.command("slow")
def slow():
    def sync(descriptor):
        print("writing", flush=True)
        time.sleep(30)
    files.os.fsync = sync
    files.write_atomically(Path("result"), b"data")
sys.argv = ["robustcodec", "slow"]
cli.main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_nothing_behind(here: Path, number: int, code: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLOW], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as running:
        assert running.stdout.readline() == b"writing\n"
        running.send_signal(number)
        _, errors = running.communicate(timeout=20)
    assert (running.returncode, errors) == (code, b"")
    assert list(here.iterdir()) == []


# The batch engine with a task that copies.


@dataclass(frozen=True)
class Copy:
    """Copies files; their content may say what goes wrong."""

    model: str = "good"

    def prepare(self) -> Work:
        if self.model == "missing":
            raise ModelNotFound("no such model")
        return self.copy

    def copy(self, job: Job) -> Result:
        data = read_input(job.source, 100)
        if data == b"fail":
            raise ImageError("the picture is bad")
        if data == b"memory":
            raise MemoryError
        if data == b"die":
            os._exit(9)
        write_output(job.target, data)
        return Result({"width": 2, "height": 3, "bytes": len(data), "bpp": float("inf")}, ("remark",))


def copy_plan(*names: str) -> Plan:
    for name in names:
        Path(name).write_bytes(name.partition(".")[2].encode())
    return plan_outputs(names, "out/", suffix=".copy", found=())


def outcome(result: Outcome) -> tuple[str, str | None]:
    return str(result.job.source), result.error


@pytest.mark.parametrize("processes", [1, 2])
def test_one_failure_does_not_stop_the_others(here: Path, processes: int) -> None:
    plan = copy_plan("a.ok", "b.fail", "c.memory", "d.ok")
    outcomes = [outcome(each) for each in batch.run(Copy(), [*plan.jobs, missing()], processes)]
    assert outcomes == [
        ("a.ok", None),
        ("b.fail", "the picture is bad"),
        ("c.memory", "this file needs more memory than the machine gives"),
        ("d.ok", None),
        ("missing", "missing cannot be read: No such file or directory"),
    ]
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.copy", "d.copy"]


def missing() -> Job:
    return Job(Path("missing"), Path("out/missing"))


def test_a_dying_worker_takes_only_its_own_file_with_it(here: Path) -> None:
    plan = copy_plan("a.ok", "b.die", "c.ok", "d.fail")
    outcomes = [outcome(each) for each in batch.run(Copy(), plan.jobs, 2)]
    assert [error is None for _, error in outcomes] == [True, False, True, False]
    assert "died" in outcomes[1][1]
    assert outcomes[3] == ("d.fail", "the picture is bad")


@dataclass(frozen=True)
class Signed(Copy):
    """Writes the number of the process that did the work."""

    def copy(self, job: Job) -> Result:
        result = super().copy(job)
        write_output(job.target, str(os.getpid()).encode())
        return result


def test_after_a_death_the_others_share_processes_again(here: Path) -> None:
    plan = copy_plan("a.ok", "b.die", *(f"{number}.ok" for number in range(12)))
    outcomes = [outcome(each) for each in batch.run(Signed(), plan.jobs, 2)]
    assert [name for name, error in outcomes if error is not None] == ["b.die"]
    assert [name for name, _ in outcomes] == [str(job.source) for job in plan.jobs]
    assert len({path.read_text() for path in Path("out").iterdir()}) <= 2 + 2 + 2  # before, alone and after


def test_a_worker_may_die_while_jobs_are_handed_out(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying(ThreadPoolExecutor):
        def submit(self, *call: object) -> Future[Outcome]:
            monkeypatch.setattr(batch, "_pool", ThreadPoolExecutor)
            if handed_out := list(Path().glob("handed-out")):
                raise BrokenProcessPool(handed_out)
            Path("handed-out").touch()
            return super().submit(*call)

    plan = copy_plan("a.ok", "b.ok", "c.fail", "d.ok")
    monkeypatch.setattr(batch, "_pool", Dying)
    outcomes = [outcome(each) for each in batch.run(Copy(), plan.jobs, 2)]
    assert outcomes == [("a.ok", None), ("b.ok", None), ("c.fail", "the picture is bad"), ("d.ok", None)]


def test_a_missing_model_ends_the_command_or_every_file(here: Path) -> None:
    plan = copy_plan("a.ok", "b.ok")
    with pytest.raises(ModelNotFound):
        list(batch.run(Copy("missing"), plan.jobs, 1))
    assert [each.error for each in batch.run(Copy("missing"), plan.jobs, 2)] == ["no such model"] * 2
    assert list(batch.run(Copy("missing"), [], 1)) == []


def test_reports_and_exit_code(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    Path("out/c.copy").write_bytes(b"")
    with pytest.raises(typer.Exit) as caught:
        process(Copy(), copy_plan("a.ok", "b.fail", "c.ok"), Console(), processes=1)
    assert caught.value.exit_code == 1
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.splitlines()[0] == "out/c.copy exists already, skipped; --overwrite makes it anew"
    assert errors.splitlines()[1].startswith("a.ok -> out/a.copy: 2x3, 2 bytes, inf bpp, ")
    assert errors.splitlines()[2:] == [
        "a.ok: remark",
        "robustcodec: error: b.fail: the picture is bad",
        "1 done (2 bytes), 1 skipped, 1 failed",
    ]

    process(Copy(), copy_plan("d.ok"), Console(quiet=True), processes=1)
    assert capsys.readouterr() == ("", "")

    with pytest.raises(typer.Exit):
        process(Copy(), copy_plan("e.ok", "b.fail", "d.ok"), Console(json=True, quiet=True), processes=1)
    out, errors = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert rows[0] == {"input": "d.ok", "output": "out/d.copy", "skipped": True}
    assert rows[1].pop("seconds") >= 0
    assert rows[1] == {
        "input": "e.ok",
        "output": "out/e.copy",
        "width": 2,
        "height": 3,
        "bytes": 2,
        "bpp": None,
    }
    assert rows[2] == {"input": "b.fail", "error": "the picture is bad"}
    assert errors == "robustcodec: error: b.fail: the picture is bad\n"

    process(Copy(), Plan((), ()), Console(), processes=4)
    assert "nothing to do: no file has a known suffix" in capsys.readouterr().err
    process(Copy(), copy_plan("f.ok"), Console(), processes=1, shard=Shard(2, 3))
    assert capsys.readouterr().err == "nothing to do: other shards have all there is (1 file)\n"


def test_folders_that_were_not_seen_fail_the_command_after_the_others(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = replace(copy_plan("a.ok", "b.ok"), unread=(Unread(Path("locked"), "Permission denied"),))
    with pytest.raises(typer.Exit) as caught:
        process(Copy(), plan, Console(json=True), processes=1)
    assert caught.value.exit_code == 1
    out, errors = capsys.readouterr()
    message = "the folder locked cannot be read: Permission denied"
    assert [json.loads(line).get("error") for line in out.splitlines()] == [message, None, None]
    assert errors == f"robustcodec: error: {message}\na.ok: remark\nb.ok: remark\n"
    with pytest.raises(typer.Exit):
        process(Copy(), Plan((), (), plan.unread), Console(), processes=1)
    assert "nothing to do" not in capsys.readouterr().err


def test_an_interrupted_batch_ends_soon(here: Path) -> None:
    """The parent waits for the file in hand, not for all of them."""
    code = """
import sys, time
from dataclasses import dataclass
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import slow_task
from robustcodec import cli
from robustcodec.cli import batch
from robustcodec.files import Job
@cli.app.command("slow")
def slow():
    for _ in batch.run(slow_task.Slow(), [Job(Path(str(n)), Path(str(n))) for n in range(50)], 2):
        print("one", flush=True)
if __name__ == "__main__":
    sys.argv = ["robustcodec", "slow"]
    cli.main()
"""
    Path("slow_task.py").write_text(
        "import time\nfrom dataclasses import dataclass\nfrom robustcodec.cli.batch import Result\n"
        "@dataclass(frozen=True)\nclass Slow:\n    def prepare(self):\n        return work\n"
        "def work(job):\n    time.sleep(0.5)\n    return Result({})\n"
    )
    Path("driver.py").write_text(code)
    with subprocess.Popen(
        [sys.executable, "driver.py", str(here)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    ) as running:
        assert running.stdout.readline() == b"one\n"
        start = time.monotonic()
        os.killpg(running.pid, signal.SIGINT)
        _, errors = running.communicate(timeout=20)
    assert (running.returncode, errors) == (130, b"")
    assert time.monotonic() - start < 8  # 50 files would take 12 seconds


def test_threads_are_shared_among_processes() -> None:
    assert threads_each(None, 1) is None
    assert threads_each(3, 4) == 3
    assert threads_each(None, 10**6) == 1


# encode and decode up to the codec.


@pytest.mark.parametrize(
    ("arguments", "target"),
    [
        ((None, None, None, None), Quality(4)),
        ((1, None, None, None), Quality(1)),
        ((5.5, None, None, None), Quality(5.5)),
        ((None, 0.4, None, None), BitsPerPixel(0.4)),
        ((None, None, "60K", None), FileSize(60000)),
        ((None, None, None, 35.0), Psnr(35.0)),
    ],
)
def test_targets(arguments: tuple[object, ...], target: object) -> None:
    assert encode.choose_target(*arguments) == target


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("60000", 60000),
        ("60k", 60000),
        ("60KB", 60000),
        ("1.5M", 1500000),
        ("2 mb", 2000000),
        ("99B", 99),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert options.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "K", "0", "-5", "nan", "inf", "1e99", "5T", "1KK", "x", "0.1"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="no size"):
        options.parse_size(text)


@pytest.mark.parametrize(("text", "shard"), [("1/1", Shard()), ("03/16", Shard(3, 16))])
def test_shards(text: str, shard: Shard) -> None:
    assert options.parse_shard(text) == shard


@pytest.mark.parametrize(
    "text", ["", "1", "/", "0/3", "4/3", "-1/3", "1/3/5", "1 / 3", "²/3", "1/0", f"1/{'9' * 5000}"]
)
def test_wrong_shards(text: str) -> None:
    with pytest.raises(UsageError, match="is no shard; give --shard I/N with I from 1 to N"):
        options.parse_shard(text)


@pytest.mark.parametrize("value", [0.99, 6.01, 90, float("nan")])
def test_qualities_out_of_range(value: float) -> None:
    with pytest.raises(UsageError, match=r"quality goes from 1 \(small\) to 6 \(faithful\) here, not to"):
        encode.choose_target(value, None, None, None)


def test_formats_to_decode_to(here: Path) -> None:
    choose = partial(decode.choose_suffix, ["a.rbc"])
    assert choose(None, None) == choose("-", None) == choose("out/", None) == choose(".", None) == ".png"
    assert decode.choose_suffix(["a.rbc", "b.rbc"], "out.v2", None) == ".png"
    assert decode.choose_suffix(["."], "out.jpg", None) == ".png"
    assert decode.choose_suffix(["."], "out.v2", "webp") == ".webp"
    assert choose("x.TIF", None) == ".tif"
    assert choose("x", None) == ".png"
    assert choose("x.bin", "JPEG") == ".jpeg"
    assert choose(None, "webp") == ".webp"


@dataclass(frozen=True)
class FakeEncoded:
    data: bytes
    quality: float = 4.0
    step: int = 1024
    reconstruction: np.ndarray | None = None


@dataclass(frozen=True)
class FakeCodec:
    """Has the shape of `robustcodec.codec.Codec` and keeps the picture that it is given."""

    seen: list[Picture] = field(default_factory=list)
    bundle: object = field(
        default_factory=lambda: SimpleNamespace(id="fake", path=Path("fake"), manifest=SimpleNamespace(contract=None))
    )
    step: int = 1024

    def memory_to_encode(self, width: int, height: int, target: object, measure: bool, refines: bool) -> int:
        return 1

    def encode(self, picture: Picture, target: object, *, limits: object, measure: bool, effort: int) -> FakeEncoded:
        self.seen.append(picture)
        shown = picture.pixels + np.uint8(1) if measure else None
        return FakeEncoded(b"x" * 240, step=self.step, reconstruction=shown)


def picture_file(name: str) -> Picture:
    picture = Picture(pixels=np.full((48, 40, 3), 100, np.uint8), xmp=b"<x/>", exif=b"II*\0\x08\0\0\0\0\0\0\0\0\0")
    Path(name).write_bytes(write_picture(picture, "PNG"))
    return picture


@pytest.mark.parametrize(
    ("strip", "kept"),
    [({}, (True, True)), ({"strip": True}, (False, False)), ({"strip_all": True}, (False, False))],
)
def test_encode_file(here: Path, strip: dict[str, bool], kept: tuple[bool, bool]) -> None:
    picture_file("a.png")
    codec = FakeCodec()
    task = encode.EncodeTask(bundle=Path("b"), target=Quality(4), measure=True, **strip)
    result = encode.encode_file(codec, task, Job(Path("a.png"), Path("a.rbc")))
    assert Path("a.rbc").read_bytes() == b"x" * 240
    assert (codec.seen[0].exif is not None, codec.seen[0].xmp is not None) == kept
    assert result.fields == {
        "width": 40,
        "height": 48,
        "bytes": 240,
        "bpp": 1.0,
        "model": "fake",
        "quality": 4.0,
        "step": 1.0,
        "guard": None,
        "psnr": pytest.approx(48.1308),
    }
    assert ["larger than the input" in note for note in result.notes] == [True]


def test_encode_file_says_if_a_psnr_is_missed(here: Path) -> None:
    picture_file("a.png")
    for decibels, said in ((48.1, []), (47, ["no step was found that gives 47 dB; this one gives 48.13 dB"])):
        task = encode.EncodeTask(bundle=Path("b"), target=Psnr(decibels))
        result = encode.encode_file(FakeCodec(), task, Job(Path("a.png"), Path("a.rbc")))
        assert "psnr" not in result.fields
        assert [note for note in result.notes if "step" in note] == said


def test_encode_file_says_if_bytes_are_left(here: Path) -> None:
    picture_file("a.png")
    left = "smaller than the 1,000 bytes asked for, since a larger file would hardly be better"
    for target, step, said in (
        (FileSize(1000), STEP_WORTHWHILE, [left]),
        (FileSize(240), STEP_WORTHWHILE, []),
        (BitsPerPixel(1000 * 8 / (40 * 48)), STEP_WORTHWHILE, [left]),
        (FileSize(1000), 1024, []),  # leaps in size are no choice
    ):
        task = encode.EncodeTask(bundle=Path("b"), target=target)
        result = encode.encode_file(FakeCodec(step=step), task, Job(Path("a.png"), Path("a.rbc")))
        assert [note for note in result.notes if "smaller" in note] == said


def test_encode_file_without_writing(here: Path) -> None:
    picture_file("a.png")
    task = encode.EncodeTask(bundle=Path("b"), target=Quality(4), dry_run=True)
    assert "psnr" not in encode.encode_file(FakeCodec(), task, Job(Path("a.png"), Path("a.rbc"))).fields
    assert not Path("a.rbc").exists()


def checks_terminal(call: Callable[[], object], stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(f"sys.{stream}", type("Terminal", (), {"isatty": lambda self: True})())
        with pytest.raises(UsageError, match="terminal"):
            call()


def test_terminals_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    to_stdout = Plan((Job(Path("a"), None),), ())
    from_stdin = Plan((Job(None, Path("a")),), ())
    checks_terminal(lambda: process(Copy(), to_stdout, Console(), processes=1), "stdout", monkeypatch)
    checks_terminal(lambda: process(Copy(), from_stdin, Console(), processes=1), "stdin", monkeypatch)

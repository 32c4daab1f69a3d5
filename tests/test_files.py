import os
import stat
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustcodec import files
from robustcodec.errors import ImageError, InputError, LimitExceeded, OutputError, UsageError
from robustcodec.files import (
    Job,
    Shard,
    Unread,
    clean_name,
    pictures_below,
    plan_outputs,
    read_input,
    share,
    write_atomically,
    write_output,
)

PICTURES = files.PICTURE_FORMATS


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "b.JPG", "notes.txt", "in/c.png", "in/deep/d.webp", "in/deep/readme"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(name.encode())
    return tmp_path


def plan(*inputs: str, o: str | None = None, **options: bool) -> list[tuple[str | None, str | None]]:
    jobs = plan_outputs(inputs, o, suffix=".rbc", found=PICTURES, **options).jobs
    return [tuple(path and path.as_posix() for path in (job.source, job.target)) for job in jobs]


def test_names_are_derived_beside_the_input(here: Path) -> None:
    assert plan("a.png", "in/c.png") == [("a.png", "a.rbc"), ("in/c.png", "in/c.rbc")]
    assert plan("notes.txt") == [("notes.txt", "notes.rbc")]
    assert plan("missing") == [("missing", "missing.rbc")]
    assert plan(str(here / "a.png")) == [(f"{here}/a.png", f"{here}/a.rbc")]


def test_pictures_below_a_folder_are_all_that_commands_take(here: Path) -> None:
    for index, suffix in enumerate(sorted(PICTURES)):
        Path("in-other", "deep").mkdir(parents=True, exist_ok=True)
        Path("in-other", "deep", f"{index:02}{suffix.upper()}").touch()
    Path("in-other.png").mkdir()
    found = [path.relative_to(here).as_posix() for path in pictures_below(here)]
    others = [f"in-other/deep/{index:02}{suffix.upper()}" for index, suffix in enumerate(sorted(PICTURES))]
    assert found == ["a.png", "b.JPG", "b.png", *others, "in/c.png", "in/deep/d.webp"]


def test_output_file_folder_and_streams(here: Path) -> None:
    assert plan("a.png", o="x.bin") == [("a.png", "x.bin")]
    assert plan("in/c.png", o="in") == [("in/c.png", "in/c.rbc")]
    assert plan("a.png", o="new/") == [("a.png", "new/a.rbc")]
    assert plan("a.png", "in/c.png", o="new") == [("a.png", "new/a.rbc"), ("in/c.png", "new/c.rbc")]
    assert plan("a.png", o="-") == [("a.png", None)]
    assert plan("-") == plan("-", "-") == [(None, None)]
    assert plan("-", o="x.rbc") == [(None, "x.rbc")]
    assert not Path("new").exists()


def test_folders_keep_their_tree_and_skip_other_files(here: Path) -> None:
    assert plan("in", recursive=True) == [("in/c.png", "in/c.rbc"), ("in/deep/d.webp", "in/deep/d.rbc")]
    assert plan("in", o="out", recursive=True) == [
        ("in/c.png", "out/c.rbc"),
        ("in/deep/d.webp", "out/deep/d.rbc"),
    ]
    assert plan("in", "in/c.png", recursive=True)[1:] == [("in/deep/d.webp", "in/deep/d.rbc")]
    Path("in/deep/up").symlink_to(here, target_is_directory=True)
    assert len(plan("in", recursive=True)) == 2
    Path("empty").mkdir()
    assert plan("empty", o="out", recursive=True) == []


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        (["b.png", "b.JPG"], None, "b.png and b.JPG would both be written to b.rbc; .* its result: -o b.JPG.rbc"),
        (["a.png", "in/../a.png", "b.png", "b.JPG"], "out", "both"),
        (["a.png"], "a.png", "a.png is an input and would be overwritten; choose another name"),
        (["a.rbc"], None, "a.rbc would be overwritten by its own result, since .* end in .rbc; give a file"),
        (["a.rbc", "b.png"], ".", "or name the result with -o"),
        (["a.png"], "./in/../a.png", "is an input"),
        (["a.png", "a.rbc"], None, "is an input|both"),
        (["a.png"], "hard", "hard is an input"),
        (["a.png"], "soft", "soft is an input"),
        (["in"], None, "in is a folder; add --recursive"),
        (["a.png", "b.png"], "-", "one result, not 2"),
        (["-"], "in", "no name"),
        (["a.png", "out.rbc"], None, "write -o out.rbc"),
    ],
)
def test_contradictions_are_refused(here: Path, inputs: list[str], output: str | None, message: str) -> None:
    Path("hard").hardlink_to("a.png")
    Path("soft").symlink_to("a.png")
    Path("a.rbc").write_bytes(b"x")
    with pytest.raises(UsageError, match=message):
        plan(*inputs, o=output)


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        (["a.png", "b.png"], "notes.txt", "notes.txt is no folder"),
        (["a.png"], "none/x.rbc", "folder none does not exist; make it first"),
        (["a.png"], "b.png/x.rbc", "b.png is no folder, which -o needs there; choose another name"),
        (["a.png"], "b.png/", "b.png is no folder, which -o needs there; choose another name"),
    ],
)
def test_folders_that_are_not_there_are_named(here: Path, inputs: list[str], output: str, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        plan(*inputs, o=output)


def test_folders_that_cannot_be_listed_are_told_apart(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated, since whoever runs the tests may be allowed everything."""
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path) == os.path.join("in", "deep"):  # noqa: PTH118
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = plan_outputs(["in", "a.png"], "out", suffix=".rbc", found=PICTURES, recursive=True)
    assert [job.source for job in found.jobs] == [Path("in/c.png"), Path("a.png")]
    assert found.unread == (Unread(Path("in/deep"), "Permission denied"),)


def test_what_may_not_be_looked_at_is_left_to_its_reader(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat_ = Path.stat

    def refuse(path: Path, **options: bool) -> os.stat_result:
        if path.name == "d.webp":
            raise PermissionError(13, "Permission denied", str(path))
        return stat_(path, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    assert plan("in", recursive=True)[1:] == plan("in/deep/d.webp") == [("in/deep/d.webp", "in/deep/d.rbc")]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_have_all_files_among_them_once(here: Path, count: int) -> None:
    """Whatever the order of the inputs, and while others write their results."""
    expected = ["a.png", "b.JPG", "in/c.png", "in/deep/d.webp"]
    written: list[str] = []
    for index in range(1, count + 1):
        inputs = ["in", "b.JPG", "a.png"] if index % 2 else ["a.png", "in", "b.JPG", "a.png"]
        whole = plan_outputs(inputs, "out", suffix=".rbc", found=PICTURES, recursive=True)
        part = share(whole, Shard(index, count))
        assert part.skipped == ()
        assert sorted(str(job.source) for job in part.jobs) == expected[index - 1 :: count]
        assert len(part.jobs) + part.elsewhere == len(expected)
        for job in part.jobs:
            write_output(job.target, b"done")
            written.append(str(job.source))
        again = share(plan_outputs(inputs, "out", suffix=".rbc", found=PICTURES, recursive=True), Shard(index, count))
        assert (again.jobs, set(again.skipped)) == ((), set(part.jobs))
    assert sorted(written) == expected


@pytest.mark.parametrize(("inputs", "output"), [(["-"], "x.rbc"), (["a.png"], "-")])
def test_streams_are_not_divided(here: Path, inputs: list[str], output: str) -> None:
    with pytest.raises(UsageError, match="standard input or output is none"):
        share(plan_outputs(inputs, output, suffix=".rbc", found=PICTURES), Shard(1, 2))


def test_existing_derived_names_are_skipped(here: Path) -> None:
    Path("a.rbc").write_bytes(b"x")
    both = plan_outputs(["a.png", "b.png"], None, suffix=".rbc", found=PICTURES)
    assert both.skipped == (Job(Path("a.png"), Path("a.rbc")),)
    assert both.jobs == (Job(Path("b.png"), Path("b.rbc")),)
    assert plan("a.png", "b.png", o=".") == [("b.png", "b.rbc")]
    assert len(plan("a.png", "b.png", overwrite=True)) == 2
    assert plan("a.png", o="a.rbc") == [("a.png", "a.rbc")]


def left_behind() -> list[str]:
    return [str(path) for path in Path().iterdir() if path.name.startswith(".robustcodec")]


def test_writes_whole_files(here: Path) -> None:
    write_output(Path("new/deep/x.rbc"), b"12")
    assert Path("new/deep/x.rbc").read_bytes() == b"12"
    write_atomically(Path("a.png"), b"")
    assert Path("a.png").read_bytes() == b""
    assert left_behind() == []


def test_permissions_are_kept_and_follow_the_umask(here: Path) -> None:
    Path("a.png").chmod(0o640)
    write_atomically(Path("a.png"), b"x")
    assert stat.S_IMODE(Path("a.png").stat().st_mode) == 0o640
    before = os.umask(0o027)
    try:
        write_atomically(Path("new"), b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path("new").stat().st_mode) == 0o640


@pytest.mark.parametrize("step", ["write", "fsync", "close"])
def test_a_failure_leaves_the_old_file(here: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    real = getattr(os, step)

    def fail(descriptor: int, *rest: object) -> None:
        if step == "close":
            real(descriptor)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, step, fail)
        with pytest.raises(OutputError, match=r"a\.png cannot be written: No space left"):
            write_atomically(Path("a.png"), b"new")
    assert Path("a.png").read_bytes() == b"a.png"
    assert left_behind() == []


def test_an_interruption_leaves_no_temporary_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise SystemExit(143)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(files.os, "fsync", interrupt)
        write_atomically(Path("new"), b"new")
    assert not Path("new").exists()
    assert left_behind() == []


def test_links_are_replaced_and_devices_written_into(here: Path) -> None:
    Path("link").symlink_to("a.png")
    write_atomically(Path("link"), b"new")
    assert not Path("link").is_symlink()
    assert Path("a.png").read_bytes() == b"a.png"

    write_atomically(Path("/dev/null"), b"gone")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)

    os.mkfifo("pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append(Path("pipe").read_bytes()))
    reader.start()
    write_atomically(Path("pipe"), b"through")
    reader.join(5)
    assert got == [b"through"]
    assert stat.S_ISFIFO(Path("pipe").stat().st_mode)


def test_dev_stdout_that_is_a_file_is_written_into(here: Path) -> None:
    code = "from pathlib import Path; from robustcodec.files import write_atomically as w\n"
    code += "w(Path('/dev/stdout'), b'data')"
    root = Path(files.__file__).parent.parent
    with Path("captured").open("wb") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True, env={"PYTHONPATH": str(root)})
    assert Path("captured").read_bytes() == b"data"
    assert Path("/dev/stdout").is_symlink()


def test_output_errors_name_the_file(here: Path) -> None:
    with pytest.raises(OutputError, match="in cannot be written: Is a directory"):
        write_atomically(Path("in"), b"x")
    with pytest.raises(OutputError, match="cannot be made"):
        write_output(Path("a.png/x"), b"x")
    with pytest.raises(OutputError, match="cannot be written: No such file"):
        write_atomically(Path("nowhere/x"), b"x")


def test_reading_is_limited(here: Path) -> None:
    assert read_input(Path("a.png"), 5) == b"a.png"
    with pytest.raises(LimitExceeded, match="more than 4 bytes"):
        read_input(Path("a.png"), 4)
    with pytest.raises(LimitExceeded):
        read_input(Path("/dev/zero"), 100)
    with pytest.raises(InputError, match="missing cannot be read: No such file"):
        read_input(Path("missing"), 9)


def test_how_a_file_begins_is_checked_before_the_rest_is_read(here: Path) -> None:
    seen: list[bytes] = []
    assert read_input(Path("a.png"), 9, seen.append) == b"a.png"
    assert seen == [b"a.png"]

    def refuse(start: bytes) -> None:
        raise ImageError(f"{len(start)} bytes that are no picture")

    with pytest.raises(ImageError, match="1048576 bytes"):
        read_input(Path("/dev/zero"), 1 << 40, refuse)


def test_a_file_is_in_memory_once(here: Path) -> None:
    data = bytes(range(256)) * (1 << 16)
    Path("large.png").write_bytes(data)
    tracemalloc.start()
    assert read_input(Path("large.png"), 1 << 30) == data
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.25 * len(data)


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("plain name ä 日本.png", "plain name ä 日本.png"),
        ("[/x] [red]", "[/x] [red]"),
        ("a\x1b[2J\x07\nb\x7f\x9b", "a\\x1b[2J\\x07\\x0ab\\x7f\\x9b"),
        ("gnp.\u202eexe\u2028\ufeff", "gnp.\\u202eexe\\u2028\\ufeff"),
        (os.fsdecode(b"a\xff\xfe.png"), "a\\xff\\xfe.png"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_clean_names(name: str, clean: str) -> None:
    assert clean_name(name) == clean


@given(st.text())
def test_clean_names_can_be_printed(name: str) -> None:
    clean = clean_name(name)
    clean.encode()
    assert clean_name(clean) == clean
    assert len(clean.splitlines()) <= 1

"""Faults injected into real commands: what is left on disk, what is said, and the exit code; docs/reliability.md."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from regenerate import sample

from robustcodec.codec import Codec
from robustcodec.images import Picture, write_picture

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")

ROOT = Path(__file__).parent.parent
OLD = b"what was there before"
COMMANDS = {
    "encode": ("encode", "a.png", "-o", "out/result", "--quiet"),
    "decode": ("decode", "a.rbc", "-o", "out/result", "--format", "png", "--quiet"),
}

STOPPED = """
import os, time
def stop(descriptor, sync=os.fsync):
    print("stopped", flush=True)
    time.sleep(60)
os.fsync = stop
"""
"""Stops where the whole result is in the temporary file, and its name not yet given."""

WORKING = """
import time
from robustcodec import codec
def stop(*given, **named):
    print("stopped", flush=True)
    time.sleep(60)
codec.code_strip = codec.synthesise = stop
"""
"""Stops in the middle of the work."""

NO_MEMORY = """
import resource
from robustcodec import codec
def limited(call):
    def run(*given, **named):
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 3_000_000, -1))
        return call(*given, **named)
    return run
codec.Codec.encode, codec.Codec.decode = limited(codec.Codec.encode), limited(codec.Codec.decode)
"""

SMALL_FILES = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (500, -1))
"""


@pytest.fixture(params=COMMANDS)
def command(request: pytest.FixtureRequest) -> Sequence[str]:
    return COMMANDS[request.param]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: Codec) -> Path:
    """The current folder: a.png, a.rbc, and an older out/result."""
    monkeypatch.chdir(tmp_path)
    pixels = sample(320, 300, 3)
    Path("a.png").write_bytes(write_picture(Picture(pixels=pixels), "PNG"))
    Path("a.rbc").write_bytes(codec.encode(Picture(pixels=pixels)).data)
    Path("out").mkdir()
    Path("out/result").write_bytes(OLD)
    return tmp_path


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tiny_path: Path) -> Iterator[Start]:
    """Starts a command in a process of its own, behind some lines that inject a fault."""
    started = []

    def call(arguments: Sequence[str], fault: str = "", stdout: int = subprocess.PIPE) -> "subprocess.Popen[bytes]":
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "ROBUSTCODEC_MODELS": str(tiny_path)}
        code = f"{fault}\nfrom robustcodec.cli import main\nmain()"
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments, "--threads", "1"],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=environment,
        )
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()
        process.communicate()


def finish(process: "subprocess.Popen[bytes]") -> tuple[int, list[str]]:
    """Exit code and what was said."""
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors.decode().splitlines()


def left() -> list[str]:
    """What lies beside the result, which must be what it was."""
    assert Path("out/result").read_bytes() == OLD
    return sorted(path.name for path in Path("out").iterdir() if path.name != "result")


def is_whole(path: str, command: Sequence[str], start: Start) -> bool:
    """Whether a file is what the command writes undisturbed."""
    written = Path(path).read_bytes()
    assert finish(start([argument.replace("out/result", "undisturbed") for argument in command])) == (0, [])
    return Path("undisturbed").read_bytes() == written


@pytest.mark.parametrize("fault", [STOPPED, WORKING])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing(
    here: Path, start: Start, command: Sequence[str], fault: str, number: int, code: int
) -> None:
    process = start(command, fault)
    assert process.stdout is not None and process.stdout.readline() == b"stopped\n"
    process.send_signal(number)
    assert finish(process) == (code, [])
    assert left() == []


def test_kill_9_leaves_the_old_file_and_a_temporary_one(here: Path, start: Start, command: Sequence[str]) -> None:
    process = start(command, STOPPED)
    assert process.stdout is not None and process.stdout.readline() == b"stopped\n"
    process.kill()
    assert finish(process) == (-signal.SIGKILL, [])
    (name,) = left()
    assert name.startswith(".robustcodec-") and name.endswith(".tmp")
    # the next run is not in its way
    assert finish(start(command)) == (0, [])
    assert is_whole("out/result", command, start)


def test_a_disk_that_takes_no_more(here: Path, start: Start, command: Sequence[str]) -> None:
    code, (line,) = finish(start(command, SMALL_FILES))
    assert (code, line) == (1, f"robustcodec: error: {command[1]}: out/result cannot be written: File too large")
    assert left() == []


@pytest.fixture(params=["size=8k", "size=1m,ro"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A file system that is full or read-only, with an older result on it."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    options = request.param.removesuffix(",ro")
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("this user may not mount a file system")
    except FileNotFoundError:
        pytest.skip("there is no mount")
    try:
        (folder / "result").write_bytes(OLD)
        if request.param.endswith("ro"):
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
            yield folder, "Read-only file system"
        else:
            (folder / "other").write_bytes(bytes(4096))
            yield folder, "No space left on device"
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_or_read_only_file_system(
    here: Path, start: Start, command: Sequence[str], mounted: tuple[Path, str]
) -> None:
    folder, reason = mounted
    before = sorted(path.name for path in folder.iterdir())
    target = str(folder / "result")
    code, (line,) = finish(start([target if argument == "out/result" else argument for argument in command]))
    assert (code, line) == (1, f"robustcodec: error: {command[1]}: {target} cannot be written: {reason}")
    assert sorted(path.name for path in folder.iterdir()) == before
    assert (folder / "result").read_bytes() == OLD


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(here: Path, start: Start, command: Sequence[str]) -> None:
    Path("out").chmod(0o500)
    try:
        code, (line,) = finish(start(command))
    finally:
        Path("out").chmod(0o700)
    assert (code, line) == (1, f"robustcodec: error: {command[1]}: out/result cannot be written: Permission denied")
    assert left() == []


@pytest.mark.parametrize(
    "arguments", [("encode", "a.png", "-o", "-"), ("decode", "a.rbc", "-o", "-", "--format", "ppm")]
)
def test_a_reader_that_has_gone(here: Path, start: Start, arguments: Sequence[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        process = start([*arguments, "--quiet"], stdout=writing)
    finally:
        os.close(writing)
    assert finish(process) == (141, [])
    assert left() == []


def test_two_processes_write_one_output(here: Path, start: Start) -> None:
    wanted = {}
    for quality in ("1", "6"):
        assert finish(start(("encode", "a.png", "-o", quality, "-q", quality, "--quiet"))) == (0, [])
        wanted[Path(quality).read_bytes()] = quality
    for _ in range(3):
        both = [start(("encode", "a.png", "-o", "out/result", "-q", quality, "--quiet")) for quality in ("1", "6")]
        assert [finish(process) for process in both] == [(0, []), (0, [])]
        assert Path("out/result").read_bytes() in wanted
    assert [path.name for path in Path("out").iterdir()] == ["result"]


@pytest.mark.parametrize("target", ["../kept", "nowhere", "result"])
def test_a_link_is_replaced_and_not_followed(here: Path, start: Start, command: Sequence[str], target: str) -> None:
    Path("kept").write_bytes(OLD)
    Path("out/result").unlink()
    Path("out/result").symlink_to(target)
    assert finish(start(command)) == (0, [])
    assert Path("kept").read_bytes() == OLD
    assert not Path("out/result").is_symlink() and [path.name for path in Path("out").iterdir()] == ["result"]
    assert is_whole("out/result", command, start)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_too_little_memory(here: Path, start: Start, command: Sequence[str]) -> None:
    code, (line,) = finish(start(command, NO_MEMORY))
    assert (code, line) == (1, f"robustcodec: error: {command[1]}: this file needs more memory than the machine gives")
    assert left() == []
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY

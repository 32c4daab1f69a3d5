"""`robustcodec attack` on real files: what it writes, what it says about that, and what bad input gets."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file
from typer.testing import CliRunner

from robustcodec.bundle import Bundle
from robustcodec.cli import app, console
from robustcodec.cli.console import exit_code
from robustcodec.codec import Codec
from robustcodec.errors import OutputError, RobustcodecError
from robustcodec.files import plan_outputs
from robustcodec.images import Picture, write_picture
from robustcodec.metrics import ms_ssim, worst_block

ROOT = Path(__file__).parent.parent
EPSILON = 5e-4
Pixels = NDArray[np.uint8]
Process = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_sample: Callable[..., Pixels], tiny_path: Path
) -> Iterator[Path]:
    """An empty folder, the current one, with a.png and b.png, and the tiny model to attack."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(tiny_path.parent))
    Path("a.png").write_bytes(write_picture(Picture(pixels=make_sample(40, 72, 7)), "PNG"))
    Path("b.png").write_bytes(write_picture(Picture(pixels=make_sample(56, 33, 8)), "PNG"))
    yield folder
    assert not list(tmp_path.rglob(".robustcodec*"))  # nothing half written, ever


@pytest.fixture
def process(here: Path) -> Process:
    """Runs `robustcodec attack ...` as a process of its own."""

    def call(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "robustcodec", "attack", *arguments]
        return subprocess.run(command, capture_output=True, env=environment, timeout=300, check=False)

    return call


def attack(*arguments: str, input: bytes = b"") -> Result:
    """Runs the command in this process, where torch is loaded once."""
    pytest.importorskip("torch")
    return CliRunner().invoke(app, ["attack", *arguments], input=input)


def refusal(*arguments: str) -> tuple[str, int]:
    """The one line that a command is refused with, and its exit code."""
    done = attack(*arguments)
    assert isinstance(done.exception, RobustcodecError), (done.exception, done.output)
    return str(done.exception), exit_code(done.exception)


def pixels(path: str) -> Pixels:
    return np.asarray(Image.open(path).convert("RGB"))


def error(a: Pixels, b: Pixels) -> float:
    return float(np.mean((a / 255 - b / 255) ** 2))


def decibels(a: Pixels, b: Pixels) -> float:
    return -10 * float(np.log10(error(a, b)))


def names(folder: str = ".") -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def test_everything_that_is_written(process: Process, codec: Codec) -> None:
    pytest.importorskip("torch")
    done = process("a.png", "b.png", "--target", "psnr", "--steps", "8", "--save-all", "--device", "cpu")
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    kinds = ("attacked", "attacked.noise", "attacked.decoded-clean", "attacked.decoded", "attacked.compared")
    assert names() == sorted([f"{stem}.{kind}.png" for stem in "ab" for kind in kinds] + ["a.png", "b.png"])
    for stem in "ab":
        x, x_star = pixels(f"{stem}.png"), pixels(f"{stem}.attacked.png")
        assert 0 < error(x, x_star) <= EPSILON
        noise = np.clip(128 + 8 * (x_star.astype(int) - x), 0, 255)
        assert np.array_equal(pixels(f"{stem}.attacked.noise.png"), noise)
        for name, shown in (("decoded-clean", x), ("decoded", x_star)):
            decoded = codec.decode(codec.encode(Picture(pixels=shown)).data).pixels
            # other threads may round the synthesis otherwise
            assert np.abs(pixels(f"{stem}.attacked.{name}.png").astype(int) - decoded).max() <= 1
        height, width = x.shape[:2]
        compared = pixels(f"{stem}.attacked.compared.png")
        assert compared.shape[0] > 2 * height
        assert compared.shape[1] > 2 * max(width, 300)

    lines = done.stderr.decode().splitlines()
    assert [line.split()[0] for line in lines if "before" in line] == ["a.png", "b.png", "mean"]
    assert sum("PSNR to the clean picture, dB" in line for line in lines) == 3
    assert sum(" ± " in line for line in lines) == 10
    assert any(line.startswith("a.png -> a.attacked.png: 72x40, encoded as .rbc: ") for line in lines)
    assert lines[-1].startswith("worst: ")


def test_json_and_going_on(here: Path, codec: Codec, tiny: Bundle) -> None:
    """Interrupted after one picture and resumed: the same bytes as in one go, since each is attacked alone."""
    options = ["--target", "bpp", "--method", "pgd", "--steps", "4", "--json", "--seed", "5", "--device", "cpu"]
    assert attack("b.png", "-o", "two/", *options).exit_code == 0
    done = attack("a.png", "b.png", "-o", "one/", *options)
    again = attack("a.png", "b.png", "-o", "two/", *options)
    assert (done.exit_code, again.exit_code) == (0, 0), done.stderr + again.stderr
    assert again.stderr.splitlines() == [
        f"{Path('two/b.attacked.png')} exists already, skipped; --overwrite makes it anew"
    ]
    for name in ("a.attacked.png", "b.attacked.png"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()

    skipped, made = (json.loads(line) for line in again.stdout.splitlines())
    row, other = (json.loads(line) for line in done.stdout.splitlines())
    assert {**skipped, "output": ""} == {name: {**other, "output": "", "skipped": True}[name] for name in skipped}
    assert set(skipped) == {*other, "skipped"} - {"seconds"}
    section = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8").split("\n## attack\n")[1].split("\n## ")[0]
    assert [name for name in row if f"`{name}`" not in section] == []
    assert {**row, "output": "", "seconds": 0} == {**made, "output": "", "seconds": 0}
    expected = {
        "input": "a.png",
        "output": "one/a.attacked.png",
        "width": 72,
        "height": 40,
        "model": "hyper-tiny",
        "fingerprint": tiny.fingerprint.hex(),
        "quality": 4.0,
        "surrogate": None,
        "surrogate_fingerprint": None,
        "method": "pgd",
        "target": "bpp",
        "free": False,
        "epsilon": EPSILON,
        "steps": 4,
        "seed": 5,
        "restarts": 1,
        "precision": "float32",
        "holds": True,
        "shrunk": 1.0,
    }
    assert {name: row[name] for name in expected} == expected
    x, x_star = pixels("a.png"), pixels("one/a.attacked.png")
    data = {"before": codec.encode(Picture(pixels=x)).data, "after": codec.encode(Picture(pixels=x_star)).data}
    shown = {name: codec.decode(file).pixels for name, file in data.items()}
    for name, encoded in (("before", x), ("after", x_star)):
        figures = row[name]
        assert figures["size"] == len(data[name])
        assert figures["bpp"] == pytest.approx(8 * len(data[name]) / (72 * 40))
        assert 0 < figures["bpp_y"] + figures["bpp_z"] < figures["bpp"]
        assert figures["psnr"] == pytest.approx(decibels(x, shown[name]), abs=0.01)
        assert figures["psnr_own"] == pytest.approx(decibels(encoded, shown[name]), abs=0.01)
        assert figures["ms_ssim"] == pytest.approx(ms_ssim(x, shown[name]), abs=1e-3)
        assert figures["worst_block"] == pytest.approx(worst_block(x, shown[name]), abs=0.01)
        cost = figures["bpp"] + 0.013 * 255**2 * error(encoded, shown[name])
        assert figures["score"] == pytest.approx(cost, rel=1e-3)
    assert (row["before"]["psnr_input"], row["before"]["gain"]) == (None, None)
    assert row["after"]["psnr_input"] == pytest.approx(decibels(x, x_star), abs=0.01)
    assert row["after"]["score_change"] == pytest.approx(row["after"]["score"] - row["before"]["score"])
    gain = (error(x, shown["after"]) - error(x, shown["before"])) / EPSILON
    assert row["after"]["gain"] == pytest.approx(gain, abs=0.01)
    assert row["bpp"] == row["after"]["bpp"] > row["before"]["bpp"]


def test_results_that_exist_count_in_the_means(here: Path) -> None:
    whole = attack("a.png", "b.png", "-o", "one/", "--method", "noise")
    assert attack("b.png", "-o", "two/", "--method", "noise").exit_code == 0
    for again in (attack("a.png", "b.png", "-o", "two/", "--method", "noise") for _ in range(2)):
        said = [done.stderr[done.stderr.index("mean of 2 pictures") :].splitlines() for done in (whole, again)]
        for lines in said:
            assert lines[-1].startswith("worst: ")
        assert said[0] == said[1]


def test_a_result_that_was_made_otherwise_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert attack("b.png", "--method", "pgd", "--steps", "2", "--device", "cpu").exit_code == 0
    before = Path("b.attacked.png").read_bytes()
    monkeypatch.setattr("robustcodec.lab.attacked.attack_picture", lambda *_: pytest.fail("it has begun"))
    way_out = "; --overwrite makes it anew, or name another place with -o"
    command = ["a.png", "b.png", "--method", "pgd", "--steps", "2"]  # another device is no other order
    cheng = str(Path(__file__).parent / "data" / "tiny" / "cheng-tiny")
    for change, difference in (
        (["--steps", "3"], "steps 2, not steps 3"),
        (["--epsilon", "0.001"], "epsilon 0.0005, not epsilon 0.001"),
        (["--seed", "1", "-q", "3"], "quality 4.0, not quality 3.0, seed 0, not seed 1"),
        (["--precision", "bfloat16"], "precision float32, not precision bfloat16"),
        (["--free"], "attack pgd:psnr, not attack pgd:psnr-free"),
        (["--target", "bpp"], "attack pgd:psnr, not attack pgd:bpp"),
        (["--method", "ifgsm"], "attack pgd:psnr, not attack ifgsm:psnr"),
        (["--surrogate", cheng], "crafted on itself, not crafted on cheng-tiny "),
        (["-m", cheng], "model hyper-tiny "),
    ):
        said, code = refusal(*command, *change)
        assert said.startswith(f"b.attacked.png was made with {difference}")
        assert said.endswith(way_out)
        assert (code, "\n" in said) == (2, False)
    Path("b.png").write_bytes(Path("a.png").read_bytes())
    assert refusal(*command) == (f"b.attacked.png was made of another picture than b.png{way_out}", 2)
    assert (names(), Path("b.attacked.png").read_bytes()) == (["a.png", "b.attacked.png", "b.png"], before)


def test_a_result_of_unknown_origin_is_skipped_and_said_so(here: Path) -> None:
    Path("a.attacked.png").write_bytes(Path("a.png").read_bytes())
    Path("b.attacked.png").mkdir()
    done = attack("a.png", "b.png", "--method", "offset", "--json")
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines() == [
        line
        for name in ("a.attacked.png", "b.attacked.png")
        for line in (
            f"{name} exists already, skipped; --overwrite makes it anew",
            f"{name}: it does not say how it was made, and counts in no mean",
        )
    ]
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"input": f"{stem}.png", "output": f"{stem}.attacked.png", "skipped": True} for stem in "ab"
    ]


def test_a_result_whose_picture_is_gone_is_skipped_and_said_so(here: Path) -> None:
    assert attack("a.png", "--method", "offset").exit_code == 0
    Path("a.png").unlink()
    done = attack("a.png", "--method", "offset")
    assert done.exit_code == 0, done.output
    assert "a.attacked.png: it may be of another picture, and counts in no mean: a.png cannot be read: " in done.stderr


def test_without_pictures_it_takes_the_sample(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("attack", "batch"):
        monkeypatch.setattr(f"robustcodec.cli.{module}.SAMPLE", here / "b.png")  # a smaller one, to save time
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    done = attack("--method", "offset")
    assert done.exit_code == 0, done.output
    assert names() == ["b.attacked.png"]
    assert str(here) not in done.stderr and "\nthe sample photograph -> b.attacked.png: " in done.stderr


def test_results_are_no_inputs(here: Path) -> None:
    assert attack("-r", ".", "--method", "offset", "--save-all").exit_code == 0
    before = names()
    for inputs in (["-r", "."], names()):
        done = attack(*inputs, "--method", "offset")
        assert (done.exit_code, done.stderr.count("exists already, skipped")) == (0, 2), done.output
        assert names() == before
    plan = plan_outputs(
        ["a.png", "a.attacked.png", "a.attacked.noise.png", "lone.attacked.png", ".attacked.png"],
        None,
        suffix=".attacked.png",
        found=(),
        mark=".attacked.",
    )
    kept = [str(job.source) for job in (*plan.jobs, *plan.skipped)]
    assert sorted(kept) == [".attacked.png", "a.png", "lone.attacked.png"]


def test_pipes(here: Path) -> None:
    done = attack("-", "-o", "-", "--method", "noise", input=Path("a.png").read_bytes())
    assert done.exit_code == 0, done.output
    attacked = np.asarray(Image.open(io.BytesIO(done.stdout_bytes)))
    assert 0 < error(pixels("a.png"), attacked) <= EPSILON


def test_a_picture_from_a_pipe_does_not_mix_with_json_or_lose_its_extras(here: Path) -> None:
    for option, message in (("--json", "both write to standard output"), ("--save-all", "several pictures")):
        said, code = refusal("-", option)
        assert (message in said, code) == (True, 2)


def with_extras(output: str, stem: str) -> list[str]:
    return sorted([output, *(f"{stem}.{kind}.png" for kind in ("noise", "decoded-clean", "decoded", "compared"))])


def test_names_beside_a_result_are_of_its_whole_name(here: Path) -> None:
    for output, stem in (("y.png", "y"), ("plain", "plain"), ("plain.v2", "plain.v2"), ("Z.PNG", "Z")):
        before = names()
        assert attack("a.png", "-o", output, "--method", "offset", "--save-all").exit_code == 0
        assert names() == sorted([*before, *with_extras(output, stem)])


def test_what_lies_beside_a_named_result_is_not_replaced_unasked(here: Path) -> None:
    Path("y.png").write_bytes(b"older")
    Path("y.noise.png").write_bytes(b"unrelated")
    command = ("a.png", "-o", "y.png", "--method", "offset", "--save-all")
    said, code = refusal(*command)
    assert said == "y.noise.png exists already; replace it with --overwrite, or choose another name"
    assert (code, Path("y.png").read_bytes(), Path("y.noise.png").read_bytes()) == (2, b"older", b"unrelated")
    assert attack(*command, "--overwrite").exit_code == 0
    assert [name for name in names() if name.startswith("y")] == with_extras("y.png", "y")
    assert Path("y.noise.png").read_bytes() != b"unrelated"


def test_a_result_is_there_when_all_its_pictures_are(here: Path) -> None:
    command = ("a.png", "b.png", "--method", "offset")
    assert attack(*command).exit_code == 0
    main = Path("a.attacked.png").read_bytes()
    assert attack("b.png", "--method", "offset", "--save-all").exit_code == 0
    done = attack(*command, "--save-all")
    assert (done.exit_code, done.stderr.count("exists already, skipped")) == (0, 1), done.output
    assert names() == sorted(
        ["a.png", "b.png", *with_extras("a.attacked.png", "a.attacked"), *with_extras("b.attacked.png", "b.attacked")]
    )
    assert Path("a.attacked.png").read_bytes() == main
    assert attack(*command, "--save-all").stderr.count("exists already, skipped") == 2
    Path("a.attacked.noise.png").unlink()  # what lacks a picture is not lost to other options, either
    said, code = refusal("a.png", "--method", "noise", "--save-all")
    assert (said.startswith("a.attacked.png was made with attack offset:psnr, not attack noise:psnr; "), code) == (
        True,
        2,
    )
    assert Path("a.attacked.png").read_bytes() == main
    assert attack("a.png", "--method", "noise", "--save-all", "--overwrite").exit_code == 0
    assert attack("b.png", "-o", "a.attacked.png", "--method", "offset", "--save-all").exit_code == 0


def test_what_is_no_result_of_this_picture_is_not_replaced_unasked(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("a.png", "b.png", "--method", "offset", "--save-all")
    assert attack("b.png", *command[2:]).exit_code == 0
    monkeypatch.setattr("robustcodec.lab.attacked.attack_picture", lambda *_: pytest.fail("it has begun"))
    way_out = "; --overwrite makes it anew, or name another place with -o"
    Path("a.attacked.png").write_bytes(b"foreign")
    assert refusal(*command) == (f"a.attacked.png exists already and does not say how it was made{way_out}", 2)
    Path("a.attacked.png").rename("a.attacked.noise.png")
    message = "a.attacked.noise.png exists already; replace it with --overwrite, or choose another name"
    assert refusal(*command) == (message, 2)
    Path("a.attacked.noise.png").unlink()
    Path("b.attacked.noise.png").unlink()
    kept = {name: Path(name).read_bytes() for name in names()}
    Path("b.png").write_bytes(Path("a.png").read_bytes())
    assert refusal(*command) == (f"b.attacked.png was made of another picture than b.png{way_out}", 2)
    Path("b.png").write_bytes(b"no picture")
    assert "no picture in a known format" in attack("b.png", *command[2:]).output
    Path("b.png").write_bytes(kept["b.png"])
    assert {name: Path(name).read_bytes() for name in names()} == kept


def test_the_result_itself_comes_last(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted while it writes, a command leaves nothing that the next one takes for done."""
    from robustcodec.cli import attack as command

    written: list[Path] = []

    def fail_at_the_fifth(target: Path, data: bytes) -> None:
        written.append(target)
        if len(written) == 5:
            raise OutputError("the disk is full")
        target.write_bytes(data)

    monkeypatch.setattr(command, "write_output", fail_at_the_fifth)
    assert attack("a.png", "--method", "offset", "--save-all").exit_code == 1
    assert sorted(map(str, written)) == with_extras("a.attacked.png", "a.attacked")
    assert str(written[-1]) == "a.attacked.png"
    assert not Path("a.attacked.png").exists()


@pytest.mark.parametrize(
    ("output", "result"),
    [
        ([], "a.attacked.png"),
        (["-o", "out/"], "out/a.attacked.png"),
        (["-o", "y.png"], "y.png"),
        (["-o", "plain"], "plain"),
    ],
)
def test_a_command_that_failed_half_way_goes_on(
    output: list[str], result: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robustcodec.cli import attack as command

    command_line = ["a.png", *output, "--method", "offset", "--save-all"]
    write, written = command.write_output, []

    def fail_at_the_third(target: Path, data: bytes) -> None:
        written.append(target)
        if len(written) == 3:
            raise OutputError("the disk is full")
        write(target, data)

    with monkeypatch.context() as patched:
        patched.setattr(command, "write_output", fail_at_the_third)
        assert attack(*command_line).exit_code == 1
    assert len(names()) == 4
    done = attack(*command_line)
    assert done.exit_code == 0, done.output
    assert len(names()) == 7
    Path(result).unlink()  # as a kill before the last file leaves it
    assert attack(*command_line).exit_code == 0
    assert Path(result).is_file()


def test_an_attacked_picture_is_no_picture_beside_another(here: Path) -> None:
    assert attack("a.png", "-o", "y.noise.png", "--method", "offset").exit_code == 0
    assert "y.noise.png exists already" in refusal("a.png", "-o", "y.png", "--method", "offset", "--save-all")[0]


def test_a_place_that_cannot_be_written_is_named_first(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr("robustcodec.lab.attacked.attack_picture", lambda *_: pytest.fail("it has begun"))
    assert refusal("a.png", "-o", "b.png/out/") == ("the folder b.png/out cannot be written: Not a directory", 1)
    Path("y.noise.png").mkdir()
    assert refusal("a.png", "-o", "y.png", "--save-all", "--overwrite") == (
        "y.noise.png is a folder and cannot be replaced; choose another name",
        1,
    )

    def refuse(**_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert refusal("a.png", "-o", "out/") == ("the folder out cannot be written: Permission denied", 1)
    assert names() == ["a.png", "b.png"]


def test_a_method_of_one_step_is_the_same_whatever_is_asked_for(here: Path) -> None:
    made = json.loads(attack("a.png", "--method", "fgsm", "--json").stdout)
    again = json.loads(attack("a.png", "--method", "fgsm", "--json", "--steps", "5").stdout)
    assert (made["steps"], again["steps"], again["skipped"]) == (1, 1, True)


@pytest.mark.parametrize(
    ("inputs", "options", "last"),
    [
        (["a.png", "b.png"], [], "stopped; the same command goes on where it was"),
        (["a.png", "b.png"], ["--overwrite"], "stopped"),
        (["a.png"], [], "stopped"),
    ],
)
def test_a_signal_says_how_it_goes_on(
    inputs: list[str], options: list[str], last: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")

    def end(*_: object) -> None:
        raise SystemExit(130)  # what the program makes of Ctrl-C

    monkeypatch.setattr("robustcodec.lab.attacked.attack_picture", end)
    done = attack(*inputs, *options)
    assert (done.exit_code, done.stderr.splitlines()) == (130, [last])
    assert attack(*inputs, *options, "--quiet").stderr == ""


def test_an_interrupted_process_says_how_it_goes_on(here: Path) -> None:
    pytest.importorskip("torch")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    program = (
        "import sys; from robustcodec.cli import attack, main; attack._SECONDS_BETWEEN_LINES = 0.0; "
        "sys.argv = ['robustcodec', 'attack', 'a.png', 'b.png', '--steps', '1000000']; main()"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as running:
        assert running.stderr is not None and running.stderr.readline().startswith(b"a.png: step 1 ")
        running.send_signal(signal.SIGINT)
        rest = running.stderr.read().decode().splitlines()
    assert (running.returncode, rest[-1]) == (130, "stopped; the same command goes on where it was")


def test_metadata_is_kept(here: Path) -> None:
    exif = b"II*\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    Path("c.png").write_bytes(write_picture(Picture(pixels=pixels("a.png"), exif=exif), "PNG"))
    assert attack("c.png", "--method", "offset").exit_code == 0
    with Image.open("c.attacked.png") as image:
        assert image.info["exif"].endswith(exif)


def test_without_a_terminal_it_says_a_line_now_and_then(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustcodec.cli.attack._SECONDS_BETWEEN_LINES", 0.0)
    command = ("a.png", "--steps", "3", "-o", "x.png")
    lines = attack(*command).stderr.splitlines()
    assert [line.partition(",")[0] for line in lines[:3]] == [f"a.png: step {step} of 3" for step in (1, 2, 3)]
    assert lines[2].endswith(" dB, 0 seconds left")
    assert attack(*command, "--quiet").stderr == ""


def test_progress_is_for_terminals(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustcodec.cli.attack._SECONDS_BETWEEN_LOOKS", 0.0)
    assert "step 2 of 3" not in attack("a.png", "--steps", "3", "-o", "x.png").stderr
    monkeypatch.setattr(console, "_on_terminal", lambda: True)
    seen = attack("a.png", "--steps", "3", "-o", "x.png").stderr
    assert "\r\x1b[Ka.png: step 2 of 3, " in seen
    assert " dB, 0 seconds left" in seen
    assert "step 2 of 3" not in attack("a.png", "--steps", "3", "-o", "x.png", "--quiet").stderr


def test_a_surrogate_is_crafted_on_and_the_model_measured(here: Path, tiny: Bundle) -> None:
    pytest.importorskip("torch")
    from robustcodec.lab.checkpoints import weights_of_bundle

    weights = {name: tensor.numpy().copy() for name, tensor in weights_of_bundle(tiny).items()}
    weights["g_a.6.weight"] *= 1.1
    save_file(weights, "cousin.safetensors")
    options = ["a.png", "--json", "--steps", "4", "--method", "pgd", "--free", "--device", "cpu"]
    own = json.loads(attack(*options, "-o", "own.png").stdout)
    other = json.loads(attack(*options, "-o", "other.png", "--surrogate", "cousin.safetensors").stdout)
    assert (own["surrogate"], other["surrogate"], other["model"]) == (None, "cousin", "hyper-tiny")
    assert own["before"] == other["before"]
    assert Path("own.png").read_bytes() != Path("other.png").read_bytes()
    itself = json.loads(attack(*options, "-o", "itself.png", "--surrogate", "hyper-tiny").stdout)
    assert itself["surrogate"] is None
    assert Path("own.png").read_bytes() == Path("itself.png").read_bytes()
    cheng = Path(__file__).parent / "data" / "tiny" / "cheng-tiny"
    across = json.loads(attack(*options, "-o", "across.png", "--surrogate", str(cheng)).stdout)
    assert (across["surrogate"], across["before"]) == ("cheng-tiny", own["before"])

    save_file({"g_a.0.conv.weight": np.zeros((8, 3, 5, 5), np.float32)}, "cheng.safetensors")
    assert refusal("a.png", "--surrogate", "cheng.safetensors") == (
        "cheng.safetensors is no network that this release knows: it lacks g_a.0.weight and g_a.6.weight (hyper) or "
        "g_a.0.conv1.weight and g_a.6.weight (cheng)",
        1,
    )
    assert not Path("a.attacked.png").exists()


def test_odd_pictures(here: Path) -> None:
    for name, shape, level in (("tiny", (5, 3, 3), 90), ("white", (32, 32, 3), 255)):
        Path(f"{name}.png").write_bytes(write_picture(Picture(pixels=np.full(shape, level, np.uint8)), "PNG"))
    Path("cut.png").write_bytes(Path("a.png").read_bytes()[:300])
    done = attack("tiny.png", "cut.png", "white.png", "missing.png", "--steps", "3", "--json")
    assert done.exit_code == 1
    tiny, cut, white, missing = (json.loads(line) for line in done.stdout.splitlines())
    assert "the PNG picture is damaged" in cut["error"]
    assert "No such file" in missing["error"]
    for row, (width, height) in ((tiny, (3, 5)), (white, (32, 32))):
        assert (row["width"], row["height"]) == (width, height)
        x, x_star = (pixels(row[name]) for name in ("input", "output"))
        assert error(x, x_star) <= EPSILON
    # when nothing is found, it says so, and all that is infinite is null
    if np.array_equal(pixels("white.png"), pixels("white.attacked.png")):
        assert white["after"]["psnr_input"] is None
        assert "the picture is unchanged" in done.stderr


def test_grey_and_transparent_pictures(here: Path) -> None:
    Image.open("a.png").convert("L").save("grey.png")
    with_alpha = Image.open("a.png").convert("RGBA")
    with_alpha.putalpha(128)
    with_alpha.save("clear.png")
    done = attack("grey.png", "clear.png", "--steps", "3")
    assert done.exit_code == 1
    assert "clear.png: the picture has transparent parts" in done.stderr
    assert 0 < error(pixels("grey.png"), pixels("grey.attacked.png")) <= EPSILON


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--method", "magic"], "no attack 'magic'; there are paper, ma2023, fgsm, ifgsm, pgd", 2),
        (["--epsilon", "0"], "above 0 and at most 1, such as 5e-4, not 0", 2),
        (["--epsilon", "nan"], "above 0 and at most 1", 2),
        (["-q", "9"], "quality goes from 1", 2),
        (["--restarts", "2"], "--restarts is for --method strong", 2),
        (["-o", "x.jpg"], "written as PNG", 2),
        (["-o", "-", "--save-all"], "--save-all writes several pictures", 2),
        (["-o", "-", "--json"], "both write to standard output", 2),
        (["-o", "a.png"], "a.png is an input and would be overwritten", 2),
        (["-m", "none"], "none", 1),
        (["--surrogate", "none"], "none", 1),
    ],
)
def test_what_cannot_be_done_is_refused_first(here: Path, arguments: list[str], message: str, code: int) -> None:
    said, ended = refusal("a.png", *arguments)
    assert message in said
    assert "\n" not in said
    assert ended == code
    assert names() == ["a.png", "b.png"]


def test_pictures_beside_the_result_do_not_hit_an_input(here: Path) -> None:
    Path("x.noise.png").write_bytes(Path("b.png").read_bytes())
    said, code = refusal("x.noise.png", "-o", "x.png", "--save-all")
    assert ("x.noise.png is an input and would be overwritten" in said, code) == (True, 2)


def test_a_device_that_is_not_there(here: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert refusal("a.png", "--device", "cuda")[0].startswith("torch finds no CUDA device")


def test_without_the_lab_it_says_what_to_install(here: Path) -> None:
    code = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else find(name, *rest)
from robustcodec.cli import main
sys.argv = ["robustcodec", "attack", "a.png"]
main()
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr.decode().splitlines() == [
        "robustcodec: error: this command needs PyTorch; install it with: pip install 'robustcodec[lab]'"
    ]

"""`robustcodec evaluate` without attacks, which needs nothing of the lab's libraries."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from robustcodec.cli import app
from robustcodec.cli.console import Console
from robustcodec.cli.evaluate import _progress
from robustcodec.errors import InputError, MissingExtra, ModelNotFound, OutputError, UsageError
from robustcodec.images import Picture, write_picture
from robustcodec.lab.evaluation.grid import Event

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_sample: Callable[..., Pixels]) -> Path:
    """Two pictures and a flat one, which every codec keeps exactly or nearly so."""
    folder = tmp_path_factory.mktemp("pictures")
    pictures = {"a": make_sample(64, 80, 1), "b": make_sample(72, 64, 2), "flat": np.full((64, 64, 3), 255, np.uint8)}
    for name, pixels in pictures.items():
        (folder / f"{name}.png").write_bytes(write_picture(Picture(pixels=pixels), "PNG"))
    return folder


def run(*arguments: str) -> str:
    """Run the command and give what it says; an error of ours is raised."""
    result = CliRunner().invoke(app, ["evaluate", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_a_clean_evaluation_loads_no_torch(tmp_path: Path, data: Path, tiny_path: Path) -> None:
    code = f"""
import sys
from robustcodec.cli import main
sys.argv = ["robustcodec", "evaluate", "--data", {str(data)!r}, "--models", {str(tiny_path)!r},
            "--attacks", "none", "-o", "out", "--quiet"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
found = [name for name in ("torch", "torchvision", "compressai", "onnx", "lightning_fabric") if name in sys.modules]
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    rows = lines(tmp_path / "out")
    assert [row["picture"]["name"] for row in rows] == ["a", "b", "flat"]  # type: ignore[index]
    assert all(row["attack"] is None for row in rows)
    assert (tmp_path / "out" / "summary.md").exists()
    assert (tmp_path / "out" / "summary.csv").exists()


def test_results_are_strict_json_and_rechecked(tmp_path: Path, data: Path, tiny_path: Path) -> None:
    out = str(tmp_path)
    models = f"{tiny_path},jpeg"
    run("--data", str(data), "--models", models, "--attacks", "none", "-o", out)
    text = (tmp_path / "results.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    flat = [row for row in lines(tmp_path) if row["picture"]["name"] == "flat" and row["model"] == "jpeg"]  # type: ignore[index]
    assert flat[0]["figures"]["psnr"] is None  # type: ignore[index]
    assert "(2 of 3)" in (tmp_path / "summary.md").read_text()

    said = run("--recheck", out, "--models", models)
    assert said.count("the same file, agrees to 0.001") == 3
    before = lines(tmp_path)
    for row in before:
        row["figures"]["bpp"] += 0.002  # type: ignore[index]
    (tmp_path / "results.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in before))
    result = CliRunner().invoke(app, ["evaluate", "--recheck", out, "--models", models])
    assert result.exit_code == 1
    assert result.output.count("differs: bpp was") == 3


def test_classical_codecs_are_rechecked_beside_their_own_model(
    tmp_path: Path, data: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(tiny_path.parent))
    options = ("--data", str(data), "--attacks", "none", "-o", str(tmp_path))
    run("--models", "cheng-tiny", *options)
    run("--models", "hyper-tiny,jpeg", "--match", "bpp", *options)
    jpeg = [row for row in lines(tmp_path) if row["model"] == "jpeg"]
    (tmp_path / "results.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in lines(tmp_path)[:3] + jpeg))
    for seed in ("0", "1"):
        assert "differs" not in run("--recheck", str(tmp_path), "--models", "hyper-tiny", "--seed", seed)


def test_an_evaluation_goes_on_where_it_was(tmp_path: Path, data: Path, tiny_path: Path) -> None:
    command = ("--data", str(data), "--models", str(tiny_path), "--attacks", "none", "-q", "2,4", "-o", str(tmp_path))
    run(*command)
    whole = lines(tmp_path)
    path = tmp_path / "results.jsonl"
    kept = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(kept[:3]) + kept[3][:50])  # as a crash leaves it
    run(*command)
    key = lambda row: (row["picture"]["name"], row["quality"])  # noqa: E731
    assert sorted(lines(tmp_path), key=key) == sorted(whole, key=key)
    assert lines(tmp_path)[:3] == whole[:3]
    run(*command)
    assert len(lines(tmp_path)) == len(whole)


def test_time_left_is_of_work_that_this_process_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of 200 rows were known: what they took is not in the time that has passed."""
    now = 0.0
    monkeypatch.setattr("robustcodec.cli.evaluate.monotonic", lambda: now)
    report = _progress(Console(quiet=False))
    report(Event(done=1, total=200, what=""))
    now = 100.0
    report(Event(done=101, total=200, what="", share=0.1))
    now = 1000.0
    report(Event(done=200, total=200, what="", share=1.0))
    said = capsys.readouterr().err.splitlines()
    assert said == ["101 of 200 rows; 15 minutes left", "200 of 200 rows"]


def test_a_signal_says_how_it_goes_on(
    tmp_path: Path, data: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: object, **__: object) -> None:
        raise SystemExit(143)  # what the program makes of SIGTERM

    monkeypatch.setattr("robustcodec.lab.evaluation.grid.measure", end)
    options = ("--data", str(data), "--models", str(tiny_path), "--attacks", "none", "-o", str(tmp_path))
    result = CliRunner().invoke(app, ["evaluate", *options])
    assert (result.exit_code, result.stderr) == (143, "stopped; the same command goes on where it was\n")


def test_a_model_is_named_by_its_architecture(
    tmp_path: Path, data: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(tiny_path.parent))
    run("--data", str(data), "--arch", "cheng", "--models", "hyper-tiny", "--attacks", "none", "-o", str(tmp_path))
    assert sorted({str(row["model"]) for row in lines(tmp_path)}) == ["cheng-tiny", "hyper-tiny"]
    with pytest.raises(ModelNotFound, match="'cheng' and variant 'unheard-of'"):
        run("--data", str(data), "--arch", "cheng", "--variant", "unheard-of", "-o", str(tmp_path))


def test_shards_make_up_the_whole(tmp_path: Path, data: Path, tiny_path: Path) -> None:
    for part in ("1/2", "2/2"):
        run("--data", str(data), "--models", str(tiny_path), "--attacks", "none", "-o", str(tmp_path), "--shard", part)
    names = [
        {json.loads(line)["picture"]["name"] for line in path.read_text().splitlines()}
        for path in sorted(tmp_path.glob("results-*-of-2.jsonl"))
    ]
    assert names[0] | names[1] == {"a", "b", "flat"}
    assert not names[0] & names[1]
    assert "3 pictures" in (tmp_path / "summary.md").read_text()


def test_a_shard_without_a_group_says_so(tmp_path: Path, data: Path, tiny_path: Path) -> None:
    options = ("--data", str(data), "--models", str(tiny_path), "--attacks", "none", "-o", str(tmp_path))
    assert "nothing to do: other shards have all there is (3 groups of pictures)" in run(*options, "--shard", "4/4")
    assert not list(tmp_path.iterdir())
    assert "nothing to do" not in run(*options, "--shard", "3/4")


def test_only_one_process_writes_a_file_of_results(tmp_path: Path, data: Path, tiny_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from robustcodec.lab.evaluation.records import writing
with writing(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
    held = tmp_path / "results-1-of-2.jsonl"
    options = ("--data", str(data), "--models", str(tiny_path), "--attacks", "none", "-o", str(tmp_path))
    command = [sys.executable, "-c", program, str(held)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match=r"another process is writing .*results-1-of-2\.jsonl; wait for its end"):
            run(*options, "--shard", "1/2")
        assert held.read_bytes() == b""
        run(*options, "--shard", "2/2")
        other.kill()
    run(*options, "--shard", "1/2")
    assert "3 pictures" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--models": "jpeg"}, "matched to a model"),
        ({"--models": ""}, "takes names of models"),
        ({"-q": "7"}, "from 1"),
        ({"-q": "four"}, "takes qualities"),
        ({"--shard": "3/2"}, "is no shard; give --shard I/N"),
        ({"--match": "size"}, "can be psnr or bpp"),
        ({"--reference": "book"}, "can be paper"),
        ({"--surrogate": "net.pth"}, "--surrogate is to craft attacked pictures on, and there are no attacks"),
        ({"--recheck": "nowhere"}, "takes no -o and no --data"),
    ],
)
def test_wrong_usage_is_named(
    tmp_path: Path, data: Path, tiny_path: Path, change: dict[str, str], message: str
) -> None:
    options = {"--data": str(data), "--models": str(tiny_path), "--attacks": "none", "-o": str(tmp_path)} | change
    with pytest.raises(UsageError, match=message):
        run(*(part for option in options.items() for part in option))


@pytest.mark.parametrize("asked", [["--models", "hyper-tiny"], ["--steps", "5"], ["--seed", "1", "--report"]])
def test_what_would_be_ignored_without_pictures_is_refused(
    asked: list[str], tmp_path: Path, data: Path, tiny_path: Path
) -> None:
    models = ["--models", str(tiny_path)]
    run("--data", str(data), *models, "--attacks", "none", "-o", str(tmp_path))
    with pytest.raises(UsageError, match=f"{asked[0]} measures nothing without pictures"):
        run(*asked, "-o", str(tmp_path))
    assert "summary.md" in run("-o", str(tmp_path), "--reference", "paper")
    assert "report.html" in run("-o", str(tmp_path), "--report", *models)


@pytest.mark.parametrize(
    "asked",
    [["--crop", "64"], ["--attacks", "strong:psnr"], ["--quality", "2"], ["--reference", "nonsense"], ["--report"]],
)
def test_what_a_recheck_would_ignore_is_refused(asked: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{asked[0]} is not for --recheck"):
        run("--recheck", str(tmp_path), "--seed", "1", "--threads", "1", "--quiet", *asked)


def test_rows_without_pictures_are_counted(tmp_path: Path, data: Path, tiny_path: Path) -> None:
    run("--data", str(data), "--models", str(tiny_path), "--attacks", "none", "-o", str(tmp_path))
    next((tmp_path / "pictures").rglob("flat.png")).unlink()
    assert "has no picture of them: 1" in run("--recheck", str(tmp_path), "--models", str(tiny_path))


def test_a_seed_beyond_64_bits_is_refused(tmp_path: Path, data: Path) -> None:
    result = CliRunner().invoke(app, ["evaluate", "--data", str(data), "--seed", "9" * 20, "-o", str(tmp_path)])
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_a_folder_with_two_pictures_of_one_name_is_refused(tmp_path: Path, data: Path, tiny_path: Path) -> None:
    for suffix in ("png", "webp"):
        (tmp_path / f"a.{suffix}").write_bytes((data / "a.png").read_bytes())
    with pytest.raises(InputError, match="two pictures named a"):
        run("--data", str(tmp_path), "--models", str(tiny_path), "--attacks", "none", "-o", str(tmp_path / "out"))


def test_attacks_without_the_lab_say_what_to_install(
    tmp_path: Path, data: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustcodec.cli.lab.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"robustcodec\[lab\]"):
        run("--data", str(data), "--models", str(tiny_path), "-o", str(tmp_path))

"""A short run of the fuzzing with a fixed seed, proof that it finds bugs, and what can be tried exhaustively."""

import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import run
from planted import PLANTED
from regenerate import GOLDEN

from robustcodec.codec import Codec
from robustcodec.container import Limits
from robustcodec.errors import FileFormatError, RobustcodecError

HERE = Path(__file__).parent
CRASHES = sorted((HERE / "crashes").glob("*.rbc"))
FILES = {path.stem: path.read_bytes() for path in sorted(GOLDEN.glob("*.rbc"))}


def call(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script of this folder in a process of its own, since it puts the codec under watch."""
    command = [sys.executable, str(HERE / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def test_a_minute_of_fuzzing_finds_nothing() -> None:
    done = call("run.py", "--count", "4000", "--models", "300", "--seed", "every commit")
    assert done.returncode == 0, done.stdout + done.stderr
    shares = re.search(r"(\d+)% of these reached the entropy coder, (\d+)% the synthesis", done.stdout)
    assert shares is not None
    # half of the repaired files must get to the coder, and a fifth to the synthesis, or the run means little
    assert int(shares[1]) >= 50 and int(shares[2]) >= 20
    assert "; 0 findings." in done.stdout


def test_the_page_has_a_place_for_the_tables(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_bytes((HERE.parents[1] / "docs" / "reliability.md").read_bytes())
    assert run.has_place(page)
    before, after = page.read_text("utf-8").split(run.BEGIN)[0], page.read_text("utf-8").split(run.END)[1]
    run.put(page, "the tables")
    assert page.read_text("utf-8") == f"{before}{run.BEGIN}\nthe tables\n{run.END}{after}"


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_are_found(bug: str) -> None:
    done = call("planted.py", bug)
    found = re.match(r"(\d+) inputs: ", done.stdout)
    assert done.returncode == 0 and found is not None, done.stdout + done.stderr
    assert int(found[1]) < 5_000


@pytest.mark.parametrize("path", CRASHES, ids=lambda path: path.stem)
def test_past_crashes_stay_past(path: Path, codec: Codec) -> None:
    for read in (codec.decode, codec.salvage):
        with suppress(RobustcodecError):
            read(path.read_bytes(), Limits(max_pixels=1 << 20))


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_and_every_truncation_is_refused(name: str, codec: Codec) -> None:
    data = FILES[name]
    damaged = bytearray(data)
    for at in range(len(data)):
        for bit in range(8):
            damaged[at] ^= 1 << bit
            with pytest.raises(FileFormatError):
                codec.decode(bytes(damaged))
            damaged[at] ^= 1 << bit
        with pytest.raises(FileFormatError):
            codec.decode(data[:at])
        with pytest.raises(FileFormatError):
            codec.decode(data + data[at:])
    assert codec.decode(bytes(damaged)).width


@pytest.mark.parametrize("name", ["strips", "grey-transparent-turned"])
def test_what_is_left_of_truncated_files(name: str, codec: Codec) -> None:
    """Salvage gives a picture or an error of ours, whatever is missing."""
    data, shown = FILES[name], 0
    for size in range(len(data)):
        with suppress(FileFormatError):
            shown += codec.salvage(data[:size]).picture.width > 0
    assert 0 < shown < len(data)

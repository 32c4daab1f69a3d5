"""A short run of the fuzzing with a fixed seed, proof that it finds bugs, and what can be tried exhaustively."""

import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import run
from mutate import FOLDERS
from planted import PLANTED
from regenerate import CHENG, dithered

from robustcodec.bundle import open_bundle
from robustcodec.codec import Codec
from robustcodec.container import Limits, read_header
from robustcodec.errors import FileFormatError, RobustcodecError

HERE = Path(__file__).parent
CRASHES = sorted((HERE / "crashes").glob("*.rbc"))
FILES = {path.stem: path.read_bytes() for folder in FOLDERS for path in sorted(folder.glob("*.rbc"))}


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


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Up to its first batches with one process, then on with two, against all in one go."""
    state = ["--state", str(tmp_path / "state")]
    call("run.py", "--count", "900", "--models", "90", *state)
    parts = call("run.py", "--count", "900", "--models", "180", "--jobs", "2", *state).stdout
    whole = call("run.py", "--count", "900", "--models", "180").stdout
    tables = [[line for line in told.splitlines() if line.startswith("|")] for told in (parts, whole)]
    assert tables[0] == tables[1] and len(tables[0]) > 15
    assert "of seed 0, not another" in call("run.py", "--seed", "another", *state).stderr


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


@pytest.fixture(scope="module")
def codecs(codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> dict[bytes, Codec]:
    """All tiny codecs, by their fingerprints; files that need no model are hyper's."""
    others = open_bundle(CHENG), dithered(tmp_path_factory.mktemp("models") / "dithered")
    return {
        bytes(8): codec,
        codec.bundle.fingerprint: codec,
        **{bundle.fingerprint: Codec(bundle, threads=1) for bundle in others},
    }


@pytest.mark.parametrize("path", CRASHES, ids=lambda path: path.stem)
def test_past_crashes_stay_past(path: Path, codecs: dict[bytes, Codec]) -> None:
    for codec in codecs.values():
        for read in (codec.decode, codec.salvage):
            with suppress(RobustcodecError):
                read(path.read_bytes(), Limits(max_pixels=1 << 20))


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_and_every_truncation_is_refused(name: str, codecs: dict[bytes, Codec]) -> None:
    data = FILES[name]
    header, _ = read_header(data)
    codec = codecs[header.fingerprint]
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


@pytest.mark.parametrize("name", ["strips", "grey-transparent-turned", "cheng-strips", "lossless-strips"])
def test_what_is_left_of_truncated_files(name: str, codecs: dict[bytes, Codec]) -> None:
    """Salvage gives a picture or an error of ours, whatever is missing."""
    data, shown = FILES[name], 0
    header, _ = read_header(data)
    for size in range(len(data)):
        with suppress(FileFormatError):
            shown += codecs[header.fingerprint].salvage(data[:size]).picture.width > 0
    assert 0 < shown < len(data)

"""Fuzz the reader as coverage leads, where atheris installs: `python tests/fuzz/guided.py FOLDER -max_total_time=600`.

The folder is where inputs that reach something new are collected, and takes the sound files first. Checksums of the
container are repaired in what libFuzzer makes, so that it finds ways behind them. Ends with the first finding, which it
writes as a file into the current folder.
"""

import struct
import sys
import zlib
from hashlib import blake2b
from pathlib import Path

import atheris

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

with atheris.instrument_imports(include=["robustcodec"]):
    from harness import Harness, Tally
    from mutate import Mutant

    from robustcodec.container import read_varint
    from robustcodec.errors import CorruptFile

_FIXED_START, _FIXED_END = 9, 10
"""Bytes of a header before its two varints, and between them and its checksum."""


def repaired(data: bytes) -> bytes:
    """Give a file the checksums that its header and its chunks should have, as far as their lengths make sense."""
    result = bytearray(data)
    try:
        _, offset = read_varint(data, _FIXED_START)
        _, offset = read_varint(data, offset)
        start, offset = 0, offset + _FIXED_END
        while offset + 4 <= len(data):
            struct.pack_into("<I", result, offset, zlib.crc32(result[start:offset]))
            start = offset + 4
            length, offset = read_varint(data, start + 1)
            offset += length
    except CorruptFile:
        pass
    return bytes(result)


def main() -> None:
    """Fuzz as libFuzzer's arguments say."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    harness = Harness()
    for data in harness.sound.files:
        (folder / blake2b(data, digest_size=8).hexdigest()).write_bytes(data)

    def examine(data: bytes) -> None:
        tally = Tally()
        harness.examine(Mutant(repaired(data), "guided", True), tally)
        for what, _ in tally.findings:
            raise AssertionError(what)

    atheris.Setup([sys.argv[0], *sys.argv[2:], str(folder)], examine)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

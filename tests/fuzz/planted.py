"""Bugs planted on purpose, to see that the fuzzing finds them: `python tests/fuzz/planted.py NAME`.

Each is one line of the codec replaced as it is loaded; nothing on disk changes. Prints how many inputs it took.
"""

import importlib
import importlib.util
import sys
from pathlib import Path

PLANTED = {
    "chunk checksums are not compared": (
        "robustcodec.container",
        "if wanted and zlib.crc32(",
        "if None and zlib.crc32(",
    ),
    "checksums of latents are not compared": (
        "robustcodec.strips",
        "if _checksum(z, latents) != crc:",
        "if _checksum(z, latents) is None:",
    ),
    "longer varints than needed are read": (
        "robustcodec.container",
        "if byte == 0 and index > 0:",
        "if None:",
    ),
    "what the entropy coder raises gets out": (
        "robustcodec.entropy.native",
        "isinstance(error, AssertionError)",
        "isinstance(error, ZeroDivisionError)",
    ),
    "transparency is inflated without a bound": (
        "robustcodec.alpha",
        "stream.decompress(data[1:], count + 1)",
        "stream.decompress(data[1:])",
    ),
    "what the decoders of AV1 and WebP raise gets out": (
        "robustcodec.plain",
        "except ImageError as error:",
        "except ZeroDivisionError as error:",
    ),
}
MOST = 20_000


def plant(name: str) -> None:
    """Load the module that a bug is in with its line replaced; whatever imports it later gets that."""
    module_name, line, other = PLANTED[name]
    spec = importlib.util.find_spec(module_name)
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    assert source.count(line) == 1, f"{module_name} has changed: plant this bug elsewhere"
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    exec(compile(source.replace(line, other), spec.origin, "exec"), module.__dict__)
    parent, _, child = module_name.rpartition(".")
    setattr(importlib.import_module(parent), child, module)


def inputs_until_found(seed: int = 0) -> tuple[int, str] | None:
    """Fuzz in batches until something is found; give the number of inputs up to then, and what was found."""
    import random

    from harness import Harness, Tally
    from mutate import mutant

    harness, draw, tally = Harness(), random.Random(f"planted {seed}"), Tally()
    while len(tally.inputs) < MOST:
        harness.examine(mutant(draw, harness.sound), tally)
        if tally.findings:
            return len(tally.inputs), tally.findings[0][0]
    return None


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]
    if len(sys.argv) > 1:
        plant(sys.argv[1])
    found = inputs_until_found()
    print(f"{found[0]} inputs: {found[1]}" if found else f"not found by {MOST} inputs")
    sys.exit(found is None)

"""Models are found, opened and written whole; nothing in one is trusted."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from regenerate import TINY, sample
from safetensors.numpy import load, save

from robustcodec import bundle as bundle_module
from robustcodec.architectures import open_architecture
from robustcodec.bundle import (
    ANALYSIS,
    ENTROPY,
    LAB,
    MANIFEST,
    PARTS,
    SYNTHESIS,
    Bundle,
    add,
    find,
    find_for,
    installed,
    manifest_document,
    open_bundle,
    remove,
    user_folder,
    write_bundle,
)
from robustcodec.codec import Codec
from robustcodec.errors import (
    ImageError,
    ModelDamaged,
    ModelError,
    ModelNotFound,
    OutputError,
    RobustcodecError,
    UsageError,
)
from robustcodec.images import Picture

Arrays = dict[str, NDArray[Any]]
Document = dict[str, Any]

PICTURE = Picture(pixels=sample(20, 24))


@pytest.fixture(autouse=True)
def own_search_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No model of this machine is in the way."""
    monkeypatch.delenv("ROBUSTCODEC_MODELS", raising=False)
    for name in ("HOME", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    folders = bundle_module.search_path
    monkeypatch.setattr(bundle_module, "search_path", lambda: folders()[:-2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the tiny bundle to damage; `restored` brings it back."""
    path = tmp_path_factory.mktemp("models") / "hyper-tiny"
    shutil.copytree(TINY, path)
    yield path


def restored(folder: Path) -> Path:
    for path in TINY.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def document() -> Document:
    parsed: Document = json.loads((TINY / MANIFEST).read_text())
    return parsed


def write_document(folder: Path, changed: Any) -> None:
    (folder / MANIFEST).write_text(json.dumps(changed))


def with_part(folder: Path, part: str, data: bytes) -> Path:
    """Put other bytes in a part's place, and their sha256 into the manifest: damage that no checksum finds."""
    restored(folder)
    (folder / part).write_bytes(data)
    changed = document()
    changed["parts"][part] = hashlib.sha256(data).hexdigest()
    write_document(folder, changed)
    return folder


def use(folder: Path) -> None:
    """Open a model, encode and decode with it."""
    codec = Codec(open_bundle(folder), threads=1)
    encoded = codec.encode(PICTURE, measure=True)
    assert encoded.reconstruction is not None
    assert np.array_equal(codec.decode(encoded.data).pixels, encoded.reconstruction)


def copy_as(target: Path, **fields: Any) -> Bundle:
    source = open_bundle(TINY)
    parts = {name: load((TINY / name).read_bytes()) for name in PARTS}
    return write_bundle(target, {**manifest_document(source.manifest), **fields}, parts)


# --- manifests ----------------------------------------------------------------------------------------------


def test_the_tiny_bundle_is_in_order(folder: Path) -> None:
    use(restored(folder))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "JSON"),
        (b"\xff", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"1" * 5000, "JSON"),
        (b"[]", "format"),
        (b'{"format": true}', "format"),
        (b'{"format": "1"}', "format"),
        (b'{"format": 0}', "below 1"),
        (b'{"format": -1}', "below 1"),
        (b'{"format": 1}', "fields"),
        (b'{"format": 1, "format": 1}', "twice"),
        (b'{"format": 1, "id": NaN}', "NaN is no finite number"),
        (b'{"format": 1, "id": 1e999}', "1e999 is no finite number"),
        (b" " * ((1 << 20) + 1), "more than the 1048576 bytes"),
    ],
)
def test_manifests_that_say_nothing(folder: Path, content: bytes, says: str) -> None:
    (restored(folder) / MANIFEST).write_bytes(content)
    with pytest.raises(ModelDamaged, match=says):
        open_bundle(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "../evil"),
        ("id", "Upper"),
        ("id", ""),
        ("id", "a" * 65),
        ("id", "new\nline"),
        ("variant", "\x1b[31m"),
        ("architecture", "hyper/../x"),
        ("sizes", []),
        ("sizes", [8, 12.0]),
        ("sizes", [True, 12]),
        ("sizes", [0, 12]),
        ("sizes", [8, 10**9]),
        ("sizes", [8]),
        ("sizes", [8, 12, 8]),
        ("sizes", [8, 13]),
        ("rates", []),
        ("rates", [{"quality": 1, "lagrangian": 1}]),
        ("rates", [{"quality": 1, "lagrangian": 1, "step": 7}]),
        ("rates", [{"quality": 1, "lagrangian": 1, "step": 65536}]),
        ("rates", [{"quality": 1, "lagrangian": 1, "step": 8.0}]),
        ("rates", [{"quality": 0.9, "lagrangian": 1, "step": 8}]),
        ("rates", [{"quality": 1, "lagrangian": 0, "step": 8}]),
        ("rates", [{"quality": 1, "lagrangian": 10**400, "step": 8}]),
        ("rates", [{"quality": 10**400, "lagrangian": 1, "step": 8}]),
        ("rates", [{"quality": -(10**400), "lagrangian": 1, "step": 8}]),
        ("rates", [{"quality": 1, "lagrangian": 1, "step": 10**400}]),
        ("rates", [{"quality": 1, "lagrangian": 1, "step": 9}, {"quality": 1, "lagrangian": 2, "step": 8}]),
        ("rates", [{"quality": 1, "lagrangian": 1, "step": 9}, {"quality": 2, "lagrangian": 2, "step": 9}]),
        ("parts", {}),
        ("parts", {**dict.fromkeys(PARTS, "0" * 64), "../evil.safetensors": "0" * 64}),
        ("parts", dict.fromkeys(("../analysis.safetensors", SYNTHESIS, ENTROPY, LAB), "0" * 64)),
        ("parts", dict.fromkeys(PARTS, "0" * 63)),
        ("parts", dict.fromkeys(PARTS, 0)),
        ("points", [1]),
        ("attacks", {}),
        ("contract", []),
        ("provenance", None),
    ],
)
def test_fields_out_of_range_are_refused(folder: Path, field: str, value: Any) -> None:
    restored(folder)
    write_document(folder, {**document(), field: value})
    with pytest.raises(ModelDamaged, match=str(folder)):
        use(folder)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [("format", 2, "newer release"), ("architecture", "unknown", "not known to this release")],
)
def test_models_of_other_releases_are_refused(folder: Path, field: str, value: Any, says: str) -> None:
    """They may be in order: no damage is claimed."""
    restored(folder)
    write_document(folder, {**document(), field: value})
    with pytest.raises(ModelError, match=says) as caught:
        use(folder)
    assert not isinstance(caught.value, ModelDamaged)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value but in what is for people only."""
    yield path
    if path and path[0] in ("provenance", "points", "attacks", "contract"):
        return
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


@given(st.sampled_from(list(places(document()))), st.sampled_from(["replace", "remove", "add"]), JSON)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_mutated_manifests_are_refused_or_harmless(
    folder: Path, place: tuple[Any, ...], action: str, value: Any
) -> None:
    changed: Any = {"root": document()}
    parent, key = changed, "root"
    for step in place:
        parent, key = parent[key], step
    if action == "remove":
        del parent[key]
    elif action == "add" and isinstance(parent[key], dict):
        parent[key]["more"] = value
    elif action == "add" and isinstance(parent[key], list):
        parent[key].append(value)
    else:
        parent[key] = value
    restored(folder)
    (folder / MANIFEST).write_text(json.dumps(changed.get("root")).replace("Infinity", "1e999"))
    try:
        use(folder)
    except ModelError:
        pass
    else:
        # what still works differs in names, or in rates that are in order
        different = {name for name in document() if changed["root"][name] != document()[name]}
        assert different <= {"id", "variant", "rates", "provenance", "points", "contract", "attacks"}


# --- parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
def test_parts_are_verified_when_they_are_read(folder: Path, part: str) -> None:
    restored(folder)
    data = bytearray((folder / part).read_bytes())
    data[-1] ^= 1
    (folder / part).write_bytes(data)
    model = open_bundle(folder)
    with pytest.raises(ModelDamaged, match=part):
        getattr(model, part.split(".")[0])
    if part != LAB:
        with pytest.raises(ModelDamaged, match=part):
            use(folder)
    (folder / part).unlink()
    with pytest.raises(ModelDamaged, match=part):
        getattr(open_bundle(folder), part.split(".")[0])


def test_each_job_reads_its_own_parts(folder: Path) -> None:
    """Decoding needs no analysis, and neither needs what the lab needs."""
    data = Codec(open_bundle(restored(folder)), threads=1).encode(PICTURE).data
    (folder / LAB).unlink()
    use(folder)
    (folder / ANALYSIS).unlink()
    assert Codec(open_bundle(folder), threads=1).decode(data).pixels.shape == (20, 24, 3)


def at(array: NDArray[Any], index: Any, value: Any) -> NDArray[Any]:
    changed = array.copy()
    changed[index] = value
    return changed


def table_with(arrays: Arrays, change: Callable[[NDArray[np.int32]], None]) -> Arrays:
    frequencies = arrays["y.frequencies"].copy()
    change(frequencies)
    return {"y.frequencies": frequencies}


def moved(first: NDArray[np.int32]) -> None:
    """Empty a table's first entry; its sum stays."""
    first[1] += first[0]
    first[0] = 0


def tables_of_y(arrays: Arrays, count: int) -> Arrays:
    """Copies of y's first table, and as many thresholds as they need."""
    return {
        "y.lengths": np.repeat(arrays["y.lengths"][:1], count),
        "y.minimums": np.repeat(arrays["y.minimums"][:1], count),
        "y.frequencies": np.tile(arrays["y.frequencies"][: arrays["y.lengths"][0]], count),
        "thresholds": np.zeros((len(arrays["thresholds"]), count - 1), np.int64),
    }


DAMAGE: dict[str, tuple[str, Callable[[Arrays], Arrays]]] = {
    "threshold negative": (ENTROPY, lambda a: {"thresholds": at(a["thresholds"], (0, 0), -1)}),
    "threshold too large": (ENTROPY, lambda a: {"thresholds": at(a["thresholds"], (0, -1), 1 << 47)}),
    "thresholds fall": (ENTROPY, lambda a: {"thresholds": a["thresholds"][:, ::-1].copy()}),
    "thresholds of 32 bits": (ENTROPY, lambda a: {"thresholds": a["thresholds"].astype(np.int32)}),
    "a threshold more": (ENTROPY, lambda a: {"thresholds": np.hstack([a["thresholds"], a["thresholds"][:, -1:]])}),
    "thresholds of no channel": (ENTROPY, lambda a: {"thresholds": a["thresholds"][:0]}),
    "median too large": (ENTROPY, lambda a: {"medians": at(a["medians"], 0, (1 << 20) + 1)}),
    "median most negative": (ENTROPY, lambda a: {"medians": at(a["medians"], 0, -(1 << 31))}),
    "medians real": (ENTROPY, lambda a: {"medians": a["medians"].astype(np.float32)}),
    "frequency zero": (ENTROPY, lambda a: table_with(a, moved)),
    "sum wrong": (ENTROPY, lambda a: table_with(a, lambda f: f.__setitem__(0, f[0] + 1))),
    "frequency negative": (ENTROPY, lambda a: table_with(a, lambda f: f.__setitem__(0, -1))),
    "length wrong": (ENTROPY, lambda a: {"y.lengths": at(a["y.lengths"], 0, a["y.lengths"][0] + 1)}),
    "length overflows": (ENTROPY, lambda a: {"y.lengths": at(a["y.lengths"], slice(None), 2**31 - 1)}),
    "no tables": (ENTROPY, lambda a: {f"y.{n}": a[f"y.{n}"][:0] for n in ("lengths", "minimums", "frequencies")}),
    "minimum too small": (ENTROPY, lambda a: {"z.minimums": at(a["z.minimums"], 0, -32768)}),
    "a table of z less": (
        ENTROPY,
        lambda a: {
            "z.lengths": a["z.lengths"][:-1],
            "z.minimums": a["z.minimums"][:-1],
            "z.frequencies": a["z.frequencies"][: -a["z.lengths"][-1]],
        },
    ),
    "weights of 32 bits": (ENTROPY, lambda a: {"h_s.0.weight": a["h_s.0.weight"].astype(np.int32)}),
    "weights turned": (ENTROPY, lambda a: {"h_s.4.weight": a["h_s.4.weight"].swapaxes(0, 1).copy()}),
    "shift too large": (ENTROPY, lambda a: {"h_s.0.shift": at(a["h_s.0.shift"], 0, 31)}),
    "shift of the last": (ENTROPY, lambda a: {"h_s.4.shift": at(a["h_s.4.shift"], 0, 1)}),
    "bias beyond the proof": (ENTROPY, lambda a: {"h_s.4.bias": at(a["h_s.4.bias"], 0, 1 << 53)}),
    "bias most negative": (ENTROPY, lambda a: {"h_s.2.bias": at(a["h_s.2.bias"], 0, -(1 << 63))}),
    "one table of y": (ENTROPY, lambda a: tables_of_y(a, 1)),
    "257 tables of y": (ENTROPY, lambda a: tables_of_y(a, 257)),
    "dead zones for one table": (ANALYSIS, lambda a: {"dead_zones": np.full(1, 512, np.uint16)}),
    "dead zones of floats": (ANALYSIS, lambda a: {"dead_zones": np.full(64, 0.5, np.float32)}),
    "a zone narrower than rounding": (ANALYSIS, lambda a: {"dead_zones": np.full(64, 511, np.uint16)}),
    "array unknown": (ENTROPY, lambda a: {"more": np.zeros(1)}),
    "not a number in synthesis": (SYNTHESIS, lambda a: {"g_s.0.weight": at(a["g_s.0.weight"], 0, np.nan)}),
    "infinite bias": (SYNTHESIS, lambda a: {"g_s.6.bias": at(a["g_s.6.bias"], 0, np.inf)}),
    "division by zero": (ANALYSIS, lambda a: {"g_a.1.beta": a["g_a.1.beta"] * 0}),
    "root of a negative": (SYNTHESIS, lambda a: {"g_s.1.gamma": -a["g_s.1.gamma"] - 1}),
    "synthesis of 64 bits": (SYNTHESIS, lambda a: {"g_s.0.bias": a["g_s.0.bias"].astype(np.float64)}),
    "synthesis of integers": (SYNTHESIS, lambda a: {"g_s.0.bias": a["g_s.0.bias"].astype(np.int16)}),
    "analysis of another size": (ANALYSIS, lambda a: {"g_a.6.weight": a["g_a.6.weight"][:-1]}),
    "analysis of no dimension": (ANALYSIS, lambda a: {"g_a.6.bias": np.array(0, np.float16)}),
    "analysis with more": (ANALYSIS, lambda a: {"g_a.7.bias": a["g_a.6.bias"]}),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_arrays_are_refused(folder: Path, kind: str) -> None:
    part, change = DAMAGE[kind]
    arrays = load((TINY / part).read_bytes())
    with_part(folder, part, save({**arrays, **change(arrays)}))
    with pytest.raises(ModelDamaged):
        use(folder)


def test_side_information_that_is_not_finite_is_refused(folder: Path) -> None:
    hyper = open_architecture(open_bundle(restored(folder)), threads=1)
    with pytest.raises(ImageError, match="no finite latents"), np.errstate(all="ignore"):
        hyper.side_information(np.full((12, 4, 4), np.inf, np.float32))


@pytest.mark.parametrize("part", [ANALYSIS, SYNTHESIS, ENTROPY])
def test_every_array_is_needed(folder: Path, part: str) -> None:
    arrays = load((TINY / part).read_bytes())
    for name in arrays:
        with_part(folder, part, save({key: array for key, array in arrays.items() if key != name}))
        with pytest.raises(ModelDamaged, match=name.replace(".", r"\.")):
            use(folder)


@given(
    part=st.sampled_from([ANALYSIS, SYNTHESIS, ENTROPY]),
    choice=st.integers(0, 99),
    kind=st.sampled_from(["large", "small", "negative", "noise", "zero"]),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_other_numbers_are_refused_or_work_without_a_word(
    folder: Path, part: str, choice: int, kind: str, seed: int
) -> None:
    """Whatever the numbers: an error of ours or files that decode to the encoder's picture; no warning, no crash."""
    arrays = load((TINY / part).read_bytes())
    name = sorted(arrays)[choice % len(arrays)]
    array = arrays[name]
    limits: Any = np.finfo(array.dtype) if array.dtype.kind == "f" else np.iinfo(array.dtype)
    noise = np.random.default_rng(seed)
    changed = {
        "large": lambda: np.full_like(array, limits.max),
        "small": lambda: np.full_like(array, limits.min),
        "negative": lambda: (0 - array).astype(array.dtype),
        "noise": lambda: (noise.uniform(-1, 1, array.shape) * float(limits.max)).astype(array.dtype),
        "zero": lambda: np.zeros_like(array),
    }[kind]()
    with_part(folder, part, save({**arrays, name: changed}))
    with suppress(RobustcodecError):
        use(folder)


@given(part=st.sampled_from([SYNTHESIS, ENTROPY]), data=st.data())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_mutated_parts_are_refused_or_harmless(folder: Path, part: str, data: st.DataObject) -> None:
    """Flips, cuts and other types in a part's own header, with the right sha256."""
    content = bytearray((TINY / part).read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    kind = data.draw(st.sampled_from(["header", "numbers", "cut", "type", "length"]))
    if kind == "header":
        content[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    elif kind == "numbers":
        content[data.draw(st.integers(header, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    elif kind == "type":
        types = data.draw(st.sampled_from(["BF16", "F8_E4M3", "F8_E5M2", "BOOL", "U16", "F64", "C64", "F4"]))
        content = bytearray(bytes(content).replace(b'"F16"', f'"{types}"'.encode()).replace(b'"I16"', b'"BF16"'))
    else:
        content[:8] = data.draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little")
    with_part(folder, part, bytes(content))
    with suppress(RobustcodecError):
        use(folder)


# --- fingerprint --------------------------------------------------------------------------------------------


def test_the_fingerprint_covers_what_the_decoder_depends_on(folder: Path) -> None:
    original = open_bundle(TINY).fingerprint
    assert original.hex() == "1ae8d46171fe7f8c"  # goes into every file that the tiny model makes
    seen = {original}
    for changes in (
        {"architecture": "other"},
        {"sizes": [8, 13]},
        {"parts": {**document()["parts"], SYNTHESIS: "0" * 64}},
        {"parts": {**document()["parts"], ENTROPY: "0" * 64}},
    ):
        restored(folder)
        write_document(folder, {**document(), **changes})
        seen.add(open_bundle(folder).fingerprint)
    assert len(seen) == 5
    for changes in (
        {"id": "other"},
        {"variant": "other"},
        {"rates": document()["rates"][:2]},
        {"provenance": {}, "points": [], "contract": {}, "attacks": [{}]},
        {"parts": {**document()["parts"], ANALYSIS: "0" * 64, LAB: "0" * 64}},
    ):
        write_document(folder, {**document(), **changes})
        assert open_bundle(folder).fingerprint == original


# --- steps --------------------------------------------------------------------------------------------------


def test_steps_of_qualities(tiny: Bundle) -> None:
    manifest = tiny.manifest
    assert [manifest.step(quality) for quality in (1, 4, 6)] == [2752, 1024, 531]
    steps = [manifest.step(quality) for quality in np.linspace(1, 6, 101)]
    assert steps == sorted(set(steps), reverse=True)
    assert manifest.step(3.5) == round((manifest.step(3) * manifest.step(4)) ** 0.5)
    assert [manifest.quality(step) for step in (2752, 1024, 531)] == [1, 4, 6]
    assert [manifest.quality(step) for step in (2753, 530, 65535, 8)] == [None] * 4
    for quality in (0.99, 6.01, float("nan")):
        with pytest.raises(UsageError):
            manifest.step(quality)


# --- finding, adding, writing -------------------------------------------------------------------------------


def test_models_are_found_by_id_path_and_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setenv("ROBUSTCODEC_MODELS", f"{first}{bundle_module.os.pathsep}{tmp_path / 'absent'}:{second}")
    copy_as(first / "near", id="near", variant="ma2023")
    copy_as(second / "far", id="far")
    (second / "aa-damaged").mkdir()
    (second / "aa-damaged" / MANIFEST).write_text("{}")
    assert [model.id for model in installed()] == ["near", "far"]
    fingerprint = open_bundle(TINY).fingerprint
    assert find("far").path == second / "far"
    assert find(str(second / "far")).id == "far"
    assert find(fingerprint.hex()[:4].upper()).id == "near"
    assert find_for(fingerprint).id == "near"
    assert find().id == "far" and find(variant="ma2023").id == "near"
    copy_as(second / "robust", id="robust", variant="robust")
    assert find().id == "robust" and find(architecture="hyper", variant="base").id == "far"
    for missing in ({"model": "none"}, {"model": fingerprint.hex()[:3]}, {"architecture": "cheng"}, {"variant": "x"}):
        with pytest.raises(ModelNotFound):
            find(**missing)
    for path in ("no/such/model", str(tmp_path)):
        with pytest.raises(ModelNotFound):
            find(path)
    with pytest.raises(ModelNotFound, match="0000000000000000"):
        find_for(bytes(8))


def test_ids_come_before_paths_and_exclude_architectures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(tmp_path / "models"))
    copy_as(tmp_path / "models" / "near", id="near")
    copy_as(tmp_path / "here" / "near", id="other")
    copy_as(tmp_path / "here" / "only", id="third")
    monkeypatch.chdir(tmp_path / "here")
    assert find("near").id == "near"
    assert find("only").id == "third"
    assert find(str(tmp_path / "here" / "near")).id == "other"
    for more in ({"architecture": "hyper"}, {"variant": "base"}):
        with pytest.raises(UsageError, match="one of the two"):
            find("near", **more)


@pytest.mark.parametrize("inside", ["", "./"])
def test_checkpoints_and_runs_are_no_models_and_export_makes_some(
    inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.pth.tar").write_bytes(b"weights")
    Path("run").mkdir()
    for name in ("net.pth.tar", "run"):
        with pytest.raises(ModelNotFound, match=rf"^{name} is no model, since it has no manifest.json; .* export"):
            find(inside + name)


def test_the_default_is_the_model_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(tmp_path))
    for name in ("experiment", "hyper-base"):
        copy_as(tmp_path / name, id=name)
    assert find().id == find(variant="base").id == "hyper-base"
    (tmp_path / "hyper-base" / MANIFEST).write_text("{}")
    for wanted in ({}, {"variant": "base"}, {"model": "hyper-base"}):
        with pytest.raises(ModelDamaged, match="hyper-base"):
            find(**wanted)
    shutil.rmtree(tmp_path / "hyper-base")
    assert find().id == "experiment"


def test_a_folder_that_may_not_be_looked_at_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(tmp_path))
    closed = tmp_path / "a"
    closed.mkdir()
    copy_as(tmp_path / "b", id="behind-it")
    is_file = Path.is_file

    def refuse(path: Path) -> bool:
        if path.parent == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refuse)
    assert find("behind-it").path == tmp_path / "b"


def test_a_name_that_no_file_can_have_is_no_model() -> None:
    with pytest.raises(ModelNotFound, match="there is no model"):
        find("x" * 300)


def test_a_shared_fingerprint_prefix_is_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(tmp_path))
    copy_as(tmp_path / "one", id="one")
    changed = document()
    changed["id"] = "two"
    start = open_bundle(TINY).fingerprint.hex()[:4]
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for number in range(200_000):
        changed["parts"][SYNTHESIS] = f"{number:064x}"
        if bundle_module._manifest(changed).fingerprint.hex().startswith(start):
            break
    write_document(tmp_path / "two", changed)
    with pytest.raises(ModelNotFound, match="more than one"):
        find(start)


def test_models_are_added_and_removed(tmp_path: Path) -> None:
    added = add(TINY)
    assert added.path == user_folder() / "hyper-tiny"
    assert find("hyper-tiny").path == added.path
    assert [path.read_bytes() for path in sorted(added.path.iterdir()) if path.name != MANIFEST] == [
        path.read_bytes() for path in sorted(TINY.iterdir()) if path.name != MANIFEST
    ]
    assert added.manifest == open_bundle(TINY).manifest
    add(TINY)
    assert [path.name for path in user_folder().iterdir()] == ["hyper-tiny"]
    for name in ("other", "../models/hyper-tiny", ""):
        with pytest.raises(ModelNotFound):
            remove(name)
    assert remove("hyper-tiny") == added.path
    assert list(user_folder().iterdir()) == []


def test_a_model_that_cannot_be_removed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    added = add(TINY)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(bundle_module.shutil, "rmtree", refuse)
    with pytest.raises(OutputError, match="cannot be removed: Permission denied"):
        remove(added.id)


def test_damaged_models_are_not_added(folder: Path) -> None:
    (restored(folder) / LAB).write_bytes(b"")
    with pytest.raises(ModelDamaged, match=LAB):
        add(folder)
    assert not user_folder().exists()


def test_another_model_of_the_same_id_is_not_replaced(tmp_path: Path) -> None:
    added = add(TINY)
    other = copy_as(tmp_path / "other", architecture="other")
    assert other.id == added.id
    with pytest.raises(OutputError, match="robustcodec models remove hyper-tiny"):
        add(other.path)
    assert open_bundle(added.path).manifest == added.manifest
    (added.path / MANIFEST).write_text("{}")  # damaged: nothing is lost
    assert add(other.path).fingerprint == other.fingerprint


def test_the_bytes_that_were_checked_are_added(folder: Path) -> None:
    def swap(model: Bundle) -> None:
        for name in (MANIFEST, *PARTS):
            (folder / name).write_bytes(b"swapped")
        open_architecture(model, threads=1)

    assert add(restored(folder), swap).manifest == open_bundle(TINY).manifest
    use(user_folder() / "hyper-tiny")


def test_what_a_check_refuses_is_not_added(folder: Path) -> None:
    arrays = load((TINY / ENTROPY).read_bytes())
    with_part(folder, ENTROPY, save({**arrays, "more": np.zeros(1)}))
    with pytest.raises(ModelDamaged, match=str(folder)):
        add(folder, lambda model: open_architecture(model, threads=1))
    assert not user_folder().exists()


def test_bundles_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model"
    copy_as(target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(bundle_module.os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "disk full")))
        with pytest.raises(OutputError, match="disk full"):
            copy_as(target, variant="other")
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert copy_as(target, variant="other").manifest.variant == "other"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_model_stays_where_another_cannot_take_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model"
    before = copy_as(target).manifest
    replace = Path.replace

    def stop(path: Path, to: Path) -> Path:
        if to == target and not path.name.endswith(".old"):
            raise SystemExit(143)
        return replace(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stop)
        with pytest.raises(SystemExit):
            copy_as(target, variant="other")
    assert open_bundle(target).manifest == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_link_to_a_model_is_replaced_and_removed_not_followed(tmp_path: Path) -> None:
    copy_as(tmp_path / "elsewhere")
    link = user_folder() / "hyper-tiny"
    link.parent.mkdir(parents=True)
    for act in (lambda: remove("hyper-tiny"), lambda: add(TINY)):
        link.symlink_to(tmp_path / "elsewhere")
        act()
        assert not link.is_symlink()
    assert [path.name for path in user_folder().iterdir()] == ["hyper-tiny"]
    assert open_bundle(tmp_path / "elsewhere").id == "hyper-tiny"


def test_what_is_no_model_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"precious")
    for name in ("folder", "file"):
        with pytest.raises(OutputError, match="no model"):
            copy_as(tmp_path / name)
    assert (tmp_path / "file").read_bytes() == b"precious"
    with pytest.raises(ModelDamaged):
        copy_as(tmp_path / "new", id="NOT AN ID")
    assert not (tmp_path / "new").exists()

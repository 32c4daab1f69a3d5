"""The Pillow plugin, in a process of its own where it matters that it is opt-in; and the MIME and magic definitions."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from regenerate import GOLDEN

import robustcodec
from robustcodec import pillow
from robustcodec.codec import Codec
from robustcodec.container import MAGIC, Limits, unpack
from robustcodec.data import MAGIC as MAGIC_FILE
from robustcodec.data import MIME
from robustcodec.files import ENCODED_SUFFIX
from robustcodec.images import Picture
from robustcodec.rate import Quality

Pixels = NDArray[np.uint8]


@pytest.fixture(autouse=True)
def plugin(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin as if it had been registered in this process; afterwards it has not."""
    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(tiny_path.parent))
    pillow._codec_for.cache_clear()
    pillow._codec_of.cache_clear()
    for registry in ("ID", "OPEN", "SAVE", "EXTENSION", "MIME"):
        monkeypatch.setattr(Image, registry, getattr(Image, registry).copy())
    robustcodec.register_pillow("hyper-tiny", threads=1)


@pytest.fixture
def pixels(make_sample: Callable[..., Pixels]) -> Pixels:
    return make_sample(40, 56, 3)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Files that are really decoded from now on."""
    seen: list[bytes] = []
    decode = Codec.decode

    def spy(self: Codec, data: bytes, limits: Limits) -> Picture:
        seen.append(data)
        return decode(self, data, limits)

    monkeypatch.setattr(Codec, "decode", spy)
    return seen


@pytest.mark.parametrize(
    ("name", "mode", "size"),
    [
        ("odd", "RGB", (17, 5)),
        ("grey", "L", (41, 33)),
        ("transparent", "RGBA", (56, 40)),
        ("grey-transparent-turned", "LA", (20, 17)),
    ],
)
def test_opening_is_lazy_and_loading_decodes(name: str, mode: str, size: tuple[int, int], decoded: list[bytes]) -> None:
    path = GOLDEN / f"{name}.rbc"
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("RBC", mode)
        assert image.get_format_mimetype() == pillow.MIME
        assert decoded == []
        assert image.size == (size if mode != "LA" else image.size)
        shown = np.asarray(image)
        assert len(decoded) == 1
        assert image.load() is not None and len(decoded) == 1
    with Image.open(path.with_suffix(".png")) as expected:
        assert expected.mode == mode
        assert np.abs(shown.astype(int) - np.asarray(expected)).max() <= 1


def test_metadata_is_there_before_decoding(decoded: list[bytes]) -> None:
    with Image.open(GOLDEN / "strips.rbc") as image:
        assert image.info == {
            "icc_profile": b"a profile",
            "exif": b"Exif\0\0II*\0" + bytes(8),
            "xmp": b"<x:xmpmeta/>",
        }
    assert decoded == []


def test_saving_encodes(tmp_path: Path, codec: Codec, pixels: Pixels) -> None:
    image = Image.fromarray(pixels)
    for options, quality in (({}, 4), ({"quality": 2.5}, 2.5)):
        image.save(tmp_path / "a.rbc", **options)
        assert (tmp_path / "a.rbc").read_bytes() == codec.encode(Picture(pixels=pixels), Quality(quality)).data
    out = BytesIO()
    image.save(out, "RBC", target=robustcodec.FileSize(200))
    assert 190 < len(out.getvalue()) <= 200
    with Image.open(out) as again:
        again.thumbnail((20, 20))
        assert again.size == (20, 14)


def test_metadata_is_saved_and_can_be_replaced(tmp_path: Path, pixels: Pixels) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    source = BytesIO()
    Image.fromarray(pixels).save(source, "PNG", exif=exif)
    with Image.open(source) as image:
        image.save(tmp_path / "kept.rbc")
        image.save(tmp_path / "without.rbc", exif=None, xmp=b"<x/>")
        turned = ImageOps.exif_transpose(image)
        turned.save(tmp_path / "given.rbc", exif=exif)
    with Image.open(tmp_path / "kept.rbc") as image:
        assert image.size == (40, 56)
        assert (image.getexif()[0x0112], image.getexif()[0x010F]) == (1, "maker")
    with Image.open(tmp_path / "without.rbc") as image:
        assert image.size == (56, 40)
        assert image.info == {"xmp": b"<x/>"}
    with Image.open(tmp_path / "given.rbc") as image:
        assert image.size == (56, 40) and image.getexif()[0x010F] == "maker"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"quality": 75}, "quality"),
        ({"quality": 3, "target": robustcodec.FileSize(99)}, "exclude each other"),
        ({"lossless": True}, "no option 'lossless'"),
    ],
)
def test_wrong_options_write_no_file(tmp_path: Path, pixels: Pixels, options: dict[str, object], says: str) -> None:
    with pytest.raises(robustcodec.UsageError, match=says):
        Image.fromarray(pixels).save(tmp_path / "a.rbc", **options)
    assert list(tmp_path.iterdir()) == []


def test_errors_are_ours_behind_the_magic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = (GOLDEN / "odd.rbc").read_bytes()
    for size in range(len(MAGIC), len(data)):
        with pytest.raises(robustcodec.CorruptFile):
            Image.open(BytesIO(data[:size]))
    for place in range(len(MAGIC), len(data)):
        with pytest.raises(robustcodec.FileFormatError):
            Image.open(BytesIO(data[:place] + bytes([data[place] ^ 0x11]) + data[place + 1 :]))
    with pytest.raises(UnidentifiedImageError):
        Image.open(BytesIO(b"\x8bRBx" + data[4:]))
    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(tmp_path))
    with Image.open(BytesIO(data)) as image, pytest.raises(robustcodec.ModelNotFound):
        image.load()


def test_limits_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    data = (GOLDEN / "square.rbc").read_bytes()
    robustcodec.register_pillow("hyper-tiny", threads=1, limits=Limits(max_pixels=4095))
    with pytest.raises(robustcodec.LimitExceeded, match="4096 pixels"):
        Image.open(BytesIO(data))
    robustcodec.register_pillow("hyper-tiny", threads=1, limits=Limits(max_pixels=0, max_metadata=0))
    with pytest.raises(robustcodec.LimitExceeded, match="more bytes than the limits allow"):
        Image.open(BytesIO(data + bytes(1 << 21)))
    robustcodec.register_pillow("hyper-tiny", threads=1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2047)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(BytesIO(data))


def test_it_is_opt_in(tiny_path: Path) -> None:
    """In a fresh process nothing knows the format before the call, and a model is loaded by the first pixel."""
    program = f"""
import sys
from PIL import Image, UnidentifiedImageError
import robustcodec
assert "numpy" not in sys.modules
path = {str(GOLDEN / "odd.rbc")!r}
robustcodec.decode(open(path, "rb").read())
try:
    Image.open(path)
    sys.exit("it was registered without being asked")
except UnidentifiedImageError:
    pass
robustcodec.register_pillow()
assert Image.open(path).size == (17, 5)
"""
    environment = {"ROBUSTCODEC_MODELS": str(tiny_path.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_plain_data_loader(tmp_path: Path, pixels: Pixels) -> None:
    """What torchvision's ImageFolder does: a folder for each class, files of a suffix, open and convert."""
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        Image.fromarray(pixels).save(tmp_path / label / "0.rbc", quality=1)
    try:
        from torchvision.datasets import ImageFolder
    except ImportError:
        found = sorted(tmp_path.rglob("*.rbc"))
        pictures = [Image.open(path).convert("RGB") for path in found]
    else:
        folder = ImageFolder(str(tmp_path), is_valid_file=lambda name: name.endswith(".rbc"))
        assert folder.classes == ["cat", "dog"]
        pictures = [picture for picture, _ in folder]
    assert [picture.size for picture in pictures] == [(56, 40)] * 2


# --- MIME and magic -----------------------------------------------------------------------------------------


def test_the_mime_definition_is_that_of_the_format() -> None:
    space = "{http://www.freedesktop.org/standards/shared-mime-info}"
    (kind,) = ElementTree.parse(MIME).getroot()
    assert kind.get("type") == pillow.MIME
    match, glob = kind.find(f"{space}magic/{space}match"), kind.find(f"{space}glob")
    assert match is not None and glob is not None
    assert match.get("value", "").encode().decode("unicode_escape").encode("latin-1") == MAGIC
    assert glob.get("pattern") == f"*{ENCODED_SUFFIX}"


@pytest.mark.skipif(shutil.which("update-mime-database") is None, reason="needs shared-mime-info")
def test_the_mime_database_takes_it(tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    shutil.copy(MIME, tmp_path / "packages")
    subprocess.run(["update-mime-database", str(tmp_path)], check=True, capture_output=True)
    assert f"{pillow.MIME}:*.rbc" in (tmp_path / "globs").read_text()
    assert (tmp_path / "image" / "x-robustcodec.xml").exists()


@pytest.mark.skipif(shutil.which("file") is None, reason="needs file(1)")
def test_file_knows_it(tmp_path: Path) -> None:
    def ask(path: Path, *options: str) -> str:
        command = ["file", "-b", *options, "-m", str(MAGIC_FILE), str(path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    nameless = tmp_path / "nameless"
    for name, kinds in (("odd", ""), ("grey", ", grey"), ("transparent", ", alpha")):
        data = (GOLDEN / f"{name}.rbc").read_bytes()
        assert unpack(data).header.minor == 0
        nameless.write_bytes(data)
        assert ask(nameless) == f"robustcodec image, version 1.0{kinds}"
        assert ask(nameless, "--mime-type") == pillow.MIME
    assert "robustcodec" not in ask(GOLDEN / "odd.png")

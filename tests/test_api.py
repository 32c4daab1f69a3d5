"""The Python interface, and every example of docs/python.md."""

import re
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile
from regenerate import sample

import robustcodec
from robustcodec import codec as codec_module
from robustcodec import container
from robustcodec.codec import Codec
from robustcodec.container import MAX_HEADER_BYTES, unpack
from robustcodec.errors import UsageError
from robustcodec.images import Picture
from robustcodec.metrics import psnr
from robustcodec.rate import Quality

ROOT = Path(__file__).parent.parent
Pixels = NDArray[np.uint8]
EXIF_TURNED = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # orientation 6


@pytest.fixture(autouse=True)
def models(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTCODEC_MODELS", str(tiny_path.parent))


@pytest.fixture(scope="session")
def model(tiny_path: Path) -> robustcodec.Model:
    return robustcodec.load(str(tiny_path), threads=1)


@pytest.fixture(scope="session")
def pixels(make_sample: Callable[..., Pixels]) -> Pixels:
    return make_sample(80, 112, 3)


def test_it_gives_what_the_codec_gives(model: robustcodec.Model, codec: Codec, pixels: Pixels) -> None:
    encoded = codec.encode(Picture(pixels=pixels), Quality(4), measure=True)
    data = model.encode(pixels)
    assert data == encoded.data
    assert np.array_equal(model.decode(data), encoded.reconstruction)
    assert psnr(model.decode(data), pixels) > 20
    assert model.encode(pixels, 2.5) == model.encode(pixels, quality=2.5) != data


def test_functions_use_the_default_model_and_the_file_s_own(pixels: Pixels) -> None:
    data = robustcodec.encode(pixels, target=robustcodec.FileSize(300))
    assert 285 < len(data) <= 300
    assert robustcodec.decode(data).shape == pixels.shape
    assert robustcodec.load_for(data[:MAX_HEADER_BYTES]).id == "hyper-tiny"
    assert f"({MAX_HEADER_BYTES} bytes)" in str(robustcodec.load_for.__doc__)


def test_models_by_id_path_and_fingerprint(model: robustcodec.Model, tiny_path: Path) -> None:
    assert robustcodec.load("hyper-tiny").fingerprint == model.fingerprint
    assert robustcodec.load(tiny_path).fingerprint == model.fingerprint
    assert robustcodec.load(model.fingerprint[:6]).id == model.id == "hyper-tiny"
    assert repr(model) == f"<robustcodec.Model hyper-tiny {model.fingerprint}>"
    with pytest.raises(robustcodec.ModelNotFound, match="robustcodec models list"):
        robustcodec.load("no-such-model")
    with pytest.raises(robustcodec.UsageError, match="threads is 0"):
        robustcodec.load(threads=0)


def test_strided_arrays_and_pillow_images_are_one_picture(model: robustcodec.Model, pixels: Pixels) -> None:
    expected = model.encode(pixels)
    assert model.encode(Image.fromarray(pixels)) == expected
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    assert model.encode(file.getvalue()) == expected
    assert model.encode(pixels[::-1, ::-1][::-1, ::-1]) == expected
    few = Image.fromarray(pixels).quantize(16)
    assert model.encode(few) == model.encode(few.convert("RGB"))
    grey = pixels[..., 1]
    expected = model.encode(grey)
    assert model.encode(Image.fromarray(grey)) == expected
    grey.flags.writeable = False
    assert model.encode(grey) == expected


def test_arrays_and_images_come_back_as_they_were(model: robustcodec.Model, pixels: Pixels) -> None:
    alpha = pixels[..., 2:] // 2
    for samples, mode in (
        (pixels[..., 0], "L"),
        (np.concatenate([pixels[..., :1], alpha], axis=2), "LA"),
        (pixels, "RGB"),
        (np.concatenate([pixels, alpha], axis=2), "RGBA"),
    ):
        data = model.encode(samples)
        decoded, image = model.decode(data), model.decode_image(data)
        assert decoded.shape == samples.shape and decoded.flags.writeable
        assert image.mode == mode
        assert np.array_equal(np.asarray(image), decoded)
        if mode.endswith("A"):
            assert np.array_equal(decoded[..., -1:], alpha)


def test_pillow_images_are_turned_and_keep_their_metadata(model: robustcodec.Model, pixels: Pixels) -> None:
    file = BytesIO()
    icc = Image.open(BytesIO(_with_profile())).info["icc_profile"]
    Image.fromarray(pixels).save(file, "PNG", exif=EXIF_TURNED, icc_profile=icc)
    opened = Image.open(file)
    decoded = model.decode_image(model.encode(opened))
    assert decoded.size == (pixels.shape[0], pixels.shape[1])
    assert decoded.info["icc_profile"] == icc
    assert decoded.getexif()[0x0112] == 1
    assert np.array_equal(np.asarray(decoded), model.decode(model.encode(np.rot90(pixels, -1))))
    saved = BytesIO()
    decoded.save(saved, "PNG")
    assert Image.open(saved).info["icc_profile"] == icc


def _with_profile() -> bytes:
    from PIL import ImageCms

    file = BytesIO()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (1, 1)).save(file, "PNG", icc_profile=profile)
    return file.getvalue()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"array of float32 \(4, 4, 3\); give uint8"),
        (np.zeros((4, 4, 5), np.uint8), r"array of uint8 \(4, 4, 5\)"),
        (np.zeros((4, 4, 1), np.uint8), r"array of uint8 \(4, 4, 1\)"),
        (np.zeros((0, 4, 3), np.uint8), r"array of uint8 \(0, 4, 3\)"),
        (np.zeros(4, np.uint8), r"array of uint8 \(4,\)"),
        ("photo.png", "cannot be a str; give a Pillow image, an array or a file's bytes"),
        (None, "cannot be a NoneType"),
        (Image.new("RGB", (0, 5)), "no pixels"),
        (Image.new("I", (5, 5)), "32 bits per sample"),
        (Image.new("F", (5, 5)), "32 bits per sample"),
        (Image.new("LAB", (5, 5)), "colours are LAB"),
    ],
)
def test_images_that_cannot_be_encoded(model: robustcodec.Model, image: Pixels, message: str) -> None:
    with pytest.raises(robustcodec.ImageError, match=message):
        model.encode(image)


@pytest.mark.parametrize("data", ["photo.rbc", Path("photo.rbc"), None, np.zeros(9, np.uint8)])
def test_what_is_no_file_s_bytes(model: robustcodec.Model, data: bytes) -> None:
    for decode in (model.decode, model.decode_image, model.salvage, robustcodec.decode, robustcodec.load_for):
        with pytest.raises(robustcodec.NotRobustcodec, match=f"cannot be a {type(data).__name__}; give its bytes"):
            decode(data)


def test_bytes_in_other_clothes(model: robustcodec.Model, pixels: Pixels) -> None:
    data = model.encode(pixels)
    expected = model.decode(data)
    for other in (bytearray(data), memoryview(data)):
        assert np.array_equal(model.decode(other), expected)


def test_a_truncated_pillow_image(model: robustcodec.Model, pixels: Pixels) -> None:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    with pytest.raises(robustcodec.ImageError, match="the PNG picture is damaged"):
        model.encode(Image.open(BytesIO(file.getvalue()[:2000])))


def test_limits_hold_both_ways(model: robustcodec.Model, pixels: Pixels) -> None:
    limits = robustcodec.Limits(max_pixels=80 * 112 - 1)
    data = model.encode(pixels)
    for refuse in (
        lambda: model.encode(pixels, limits=limits),
        lambda: model.encode(Image.fromarray(pixels), limits=limits),
        lambda: model.decode(data, limits=limits),
        lambda: model.decode_image(data, limits=limits),
        lambda: robustcodec.decode(data, limits=limits),
    ):
        with pytest.raises(robustcodec.LimitExceeded):
            refuse()


def test_too_much_memory_is_refused_before_a_picture_is_decoded(
    model: robustcodec.Model, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")

    def decoded(image: ImageFile.ImageFile) -> None:
        raise AssertionError("the picture was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    limits = robustcodec.Limits(max_memory=1 << 20)
    for image in (file.getvalue(), Image.open(file)):
        for encode in (model.encode, model.encode_guarded):
            with pytest.raises(robustcodec.LimitExceeded, match="bytes of memory but 1,048,576 are allowed"):
                encode(image, limits=limits)


def test_regions_and_what_is_left_of_a_damaged_file(model: robustcodec.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec_module, "STRIP_ABOVE", 1)
    monkeypatch.setattr(codec_module, "STRIP_ROWS", 64)
    data = model.encode(sample(150, 90, 2))
    whole = model.decode(data)
    part = whole[70:79, 10:60]
    assert np.array_equal(model.decode(data, region=(10, 70, 50, 9)), part)
    assert np.array_equal(robustcodec.decode(data, region=(10, 70, 50, 9)), part)
    assert np.array_equal(np.asarray(model.decode_image(data, region=(10, 70, 50, 9))), part)
    for region in ((60, 0, 31, 1), (-1, 0, 1, 1), (0, 0, 0, 1)):
        with pytest.raises(UsageError, match="region"):
            model.decode(data, region=region)

    pixels, lost = model.salvage(data)
    assert np.array_equal(pixels, whole) and lost == ()
    at = data.index(unpack(data).payload[1]) + 30
    pixels, lost = model.salvage(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert lost == ((0, 64, 90, 64),) and (pixels[64:128] == 128).all()
    assert np.array_equal(pixels[:32], whole[:32])
    with pytest.raises(robustcodec.CorruptFile):
        model.salvage(data[:40])


def test_quality_and_targets_out_of_range(model: robustcodec.Model, pixels: Pixels) -> None:
    with pytest.raises(robustcodec.UsageError, match="exclude each other"):
        model.encode(pixels, 4, target=robustcodec.Psnr(30))
    for quality in (0, 6.5, float("nan")):
        with pytest.raises(robustcodec.UsageError, match="quality goes from 1"):
            model.encode(pixels, quality)
    for target, value in (
        (robustcodec.FileSize, 0),
        (robustcodec.BitsPerPixel, -1.0),
        (robustcodec.Psnr, float("nan")),
    ):
        with pytest.raises(robustcodec.UsageError, match="out of range"):
            target(value)
    with pytest.raises(robustcodec.TargetError):
        model.encode(pixels, target=robustcodec.FileSize(40))


def test_a_file_of_another_model(model: robustcodec.Model) -> None:
    header = container.Header(
        width=16, height=16, payload=container.Payload.NETWORK, step=1024, fingerprint=bytes(range(8))
    )
    data = container.pack(header, [container.Chunk(container.ChunkType.STRIP, bytes(20))])
    with pytest.raises(robustcodec.ModelError, match="made with model 0001020304050607, not with hyper-tiny"):
        model.decode(data)
    with pytest.raises(robustcodec.ModelNotFound, match="0001020304050607, which is not installed"):
        robustcodec.decode(data)


def test_public_names_are_there_and_the_import_is_light() -> None:
    code = (
        "import sys, robustcodec\n"
        "assert set(robustcodec.__all__) <= set(dir(robustcodec))\n"
        "print([name for name in ('numpy', 'PIL', 'onnxruntime', 'torch') if name in sys.modules])\n"
        "assert all(getattr(robustcodec, name) is not None for name in robustcodec.__all__)\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines() == ["[]", "False"]
    with pytest.raises(AttributeError, match="no attribute 'encoode'"):
        _ = robustcodec.encoode  # type: ignore[attr-defined]


def test_examples_of_the_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pixels: Pixels
) -> None:
    monkeypatch.chdir(tmp_path)
    for registry in ("ID", "OPEN", "SAVE", "EXTENSION", "MIME"):
        monkeypatch.setattr(Image, registry, getattr(Image, registry).copy())
    Image.fromarray(np.tile(pixels, (2, 2, 1))).save("photo.png")
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 6
    names: dict[str, object] = {}
    for example in examples:
        exec(example, names)
    printed = capsys.readouterr().out
    assert "a picture cannot be an array of float32 (64, 64, 3)" in printed
    assert printed.count("refused: ") == 3
    assert isinstance(names["picture"], np.ndarray)

"""Pictures of all kinds go into a file and back: size, mode, alpha, profile, orientation; docs/pictures.md says so."""

from io import BytesIO

import numpy as np
import pictures
import pytest
from pictures import Sample
from PIL import Image, ImageOps

from robustcodec.codec import Codec
from robustcodec.errors import ImageError
from robustcodec.images import read_picture, write_picture
from robustcodec.metrics import psnr
from robustcodec.rate import Quality

LIMIT = 1 << 20
SAMPLES = list(pictures.samples())


@pytest.mark.parametrize("sample", [sample for sample in SAMPLES if sample.mode], ids=lambda sample: sample.name)
def test_pictures_come_back_as_they_were(codec: Codec, sample: Sample) -> None:
    """Compared with what Pillow alone makes of the file, turned by its own ImageOps."""
    picture = read_picture(sample.data, LIMIT, as_is=True)
    encoded = codec.encode(picture, Quality(6)).data
    png = write_picture(codec.decode(encoded), "PNG")
    with Image.open(BytesIO(sample.data)) as opened, Image.open(BytesIO(png)) as back:
        given = ImageOps.exif_transpose(opened)
        back.load()
        assert back.mode == sample.mode
        assert back.size == given.size
        if sample.mode.endswith("A"):
            alpha = np.asarray(given.convert("RGBA").getchannel("A"))
            assert np.array_equal(np.asarray(back.getchannel("A")), alpha)
            assert alpha.min() < 255
        profile = given.info.get("icc_profile")
        assert back.info.get("icc_profile") == (None if "profile" in sample.says else profile)
        if opened.format != "TIFF" and opened.getexif():
            assert back.getexif()[pictures.MAKER] == "a maker with a name"
            assert back.getexif().get(0x0112, 1) == 1
        if opened.info.get("xmp"):
            assert b'note="kept"' in back.info["xmp"]
        if "16 bits" not in sample.says and "profile is not" not in sample.says:
            expected = np.asarray(given.convert("RGBA").convert("RGB"))
            assert np.array_equal(picture.pixels, expected)
            assert psnr(np.asarray(back.convert("RGB")), expected) > 15
    assert (sample.says in " ".join(picture.notes)) and bool(picture.notes) == bool(sample.says)


@pytest.mark.parametrize("sample", [sample for sample in SAMPLES if not sample.mode], ids=lambda sample: sample.name)
def test_what_is_refused_says_what_to_do(sample: Sample) -> None:
    with pytest.raises(ImageError, match=sample.says):
        read_picture(sample.data, LIMIT, as_is=True)


def test_the_page_has_the_table() -> None:
    page = pictures.PAGE.read_text(encoding="utf-8")
    assert len(SAMPLES) >= 40
    assert "\n".join(pictures.table()) in page, "run python -m tests.pictures"

"""Decoders by name: the same picture from each, and the same rules for broken, turned, transparent and huge ones."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
import skimage.data
from PIL import Image

from xmodal.data import decoders
from xmodal.data.augment import augment, read_augmented
from xmodal.data.decoders import DECODERS, decode_picture
from xmodal.data.images import decode_image
from xmodal.data.members import MemberError
from xmodal.errors import DataError
from xmodal.recipe import Augment, Data

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")

FAST = [name for name in DECODERS if not name.startswith("pil")]
WHOLE = [name for name in DECODERS if not name.endswith("-draft")]


def encoded(image, format="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def photo(name="astronaut", size=None):
    image = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
    return image.resize(size, Image.Resampling.BICUBIC) if size else image


def pixels(data, decoder):
    image = decode_picture(data, decoder).to_image()
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def off(found, expected):
    return np.abs(np.asarray(found).astype(int) - np.asarray(expected).astype(int))


def test_a_recipe_knows_the_decoders_that_there_are():
    assert Data.model_fields["decoder"].annotation.__args__ == DECODERS
    assert Data.model_fields["decoder"].default == decoders.DEFAULT_DECODER


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}])
def test_all_decode_a_photo_as_pillow_does(decoder, name, options):
    data = encoded(photo(name), **options)
    assert off(pixels(data, decoder), decode_image(data)).max() <= 1


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_too(decoder, format):
    data = encoded(photo(size=(90, 70)), format)
    assert off(pixels(data, decoder), decode_image(data)).max() <= 1


@pytest.mark.parametrize("decoder", FAST)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_the_format_alone_says_whether_pillow_decodes(decoder, format, monkeypatch):
    used = []
    array = decoders._array
    monkeypatch.setattr(decoders, "_array", lambda *args: used.append(args[1]) or array(*args))
    decode_picture(encoded(photo(size=(40, 30)), format), decoder)
    assert bool(used) == (format == "JPEG" or (decoder == "torchvision" and format in ("PNG", "WEBP")))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(decoder, orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo("chelsea", (60, 40)), format, exif=exif)
    assert off(pixels(data, decoder), decode_image(data)).max() <= 1
    assert decode_picture(data, decoder).full_size == ((40, 60) if orientation > 4 else (60, 40))


@pytest.mark.parametrize("decoder", DECODERS)
def test_cmyk_gray_palette_transparency_animation_and_sixteen_bits_are_as_pillow_has_them(decoder):
    image = photo(size=(48, 36))
    with_alpha = image.copy()
    with_alpha.putalpha(image.convert("L"))
    palette = image.convert("P")
    deep = Image.fromarray(np.arange(48 * 36, dtype=np.uint16).reshape(36, 48) * 37)
    cases = [
        encoded(image.convert("CMYK")),
        encoded(image.convert("L")),
        encoded(image.convert("L"), "PNG"),
        encoded(image.convert("1"), "PNG"),
        encoded(palette, "PNG"),
        encoded(palette, "PNG", transparency=3),
        encoded(image, "PNG", transparency=image.getpixel((0, 0))),
        encoded(with_alpha, "PNG"),
        encoded(with_alpha, "WEBP"),
        encoded(image, "WEBP", save_all=True, append_images=[image.rotate(90)], lossless=True),
        encoded(image, "PNG", save_all=True, append_images=[image.rotate(90)]),
        encoded(deep, "PNG"),
    ]
    for data in cases:
        assert off(pixels(data, decoder), decode_image(data)).max() <= 1


def png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rest = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rest


def huge_jpeg():
    """A real JPEG whose header says 65 000 × 65 000."""
    data = bytearray(encoded(photo(size=(64, 64))))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65000, 65000)
    return bytes(data)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\xff\xd8\xff not a jpeg", "not one of"),
        (encoded(photo(size=(200, 200)))[:-2000], "cannot be decoded"),
        (encoded(photo(size=(99, 99)), "PNG")[:-999], "cannot be decoded"),
        (encoded(photo(size=(99, 99)), "WEBP")[:-999], "cannot be decoded"),
        (png(9000, 9000), "9000 × 9000 pixels"),
        (png(60000, 60000), "more than"),
        (huge_jpeg(), "more than"),
    ],
)
def test_broken_and_huge_pictures_are_member_errors(decoder, data, reason):
    with pytest.raises(MemberError, match=reason):
        decode_picture(data, decoder)


@pytest.mark.parametrize("decoder", FAST)
def test_a_huge_picture_is_refused_before_the_decoder_sees_it(decoder, monkeypatch):
    monkeypatch.setattr(decoders, "_array", lambda *_: pytest.fail("decompressed"))
    with pytest.raises(MemberError, match="more than"):
        decode_picture(huge_jpeg(), decoder)


def test_an_unknown_decoder_is_refused_with_the_nearest_name():
    with pytest.raises(DataError, match="torchvision"):
        decode_picture(encoded(photo()), "torchvison")


# drafts


@pytest.mark.parametrize("decoder", ["pil-draft", "simplejpeg-draft"])
def test_a_draft_has_all_the_pixels_asked_for_and_no_more_than_twice(decoder):
    data = encoded(photo(size=(800, 600)))
    for share in (1.0, 0.51, 0.5, 0.3, 0.25, 0.13, 0.01):
        width, height = decode_picture(data, decoder, lambda _, share=share: share).size
        assert 800 * share <= width <= max(1600 * share, 101)
        assert 600 * share <= height <= max(1200 * share, 76)
        assert share > 0.5 or width < 800
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode_picture(
        encoded(photo(size=(800, 600)), exif=exif), decoder, lambda size: 0.5 if size == (600, 800) else 1
    )
    assert (turned.size, turned.full_size) == ((300, 400), (600, 800))


@pytest.mark.parametrize("decoder", [name for name in DECODERS if name != "pil"])
def test_an_augmented_photo_is_nearly_the_same_whatever_decodes_it(decoder):
    settings = Augment(crop_scale=(0.3, 1.0), flip=0.5, color_jitter=0.2)
    for name in ("astronaut", "coffee", "chelsea"):
        data = encoded(photo(name, (1200, 900)), quality=92)
        for view in range(4):
            drawn = {"size": 224, "seed": 1, "view": view, "key": name}
            expected = read_augmented(data, settings, decoder="pil", **drawn)
            found = read_augmented(data, settings, decoder=decoder, **drawn)
            assert found.size == expected.size == (224, 224)
            # torch's crop lies at whole pixels, of a draft even coarser ones
            assert off(found, expected).mean() < (5.0 if decoder.endswith("-draft") else 2.0)


@pytest.mark.parametrize("decoder", ["pil-draft", "simplejpeg-draft"])
def test_a_draft_is_taken_of_a_big_photo(decoder):
    data = encoded(photo(size=(1200, 900)))
    settings = Augment(crop_scale=(0.9, 1.0))
    seen = []
    original = decoders.decode_picture

    def decode(*args):
        seen.append(original(*args))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xmodal.data.augment.decode_picture", decode)
        read_augmented(data, settings, decoder=decoder, size=224, seed=0, view=0, key="a")
        read_augmented(data, settings, decoder=decoder, size=None, seed=0, view=0, key="a")
    assert seen[0].size == (600, 450)
    assert seen[1].size == (1200, 900)  # nobody said how small it may be


def test_pillows_way_is_what_augment_always_did():
    """Checkpoints and published students were trained on these pixels: see the digest."""
    data = encoded(photo("chelsea", (160, 120)), "PNG")
    settings = Augment(crop_scale=(0.4, 1.0), flip=0.5, rotation=30, color_jitter=0.4, hue_jitter=0.2, grayscale=0.2)
    drawn = {"size": 48, "seed": 0, "view": 3, "key": "cat"}
    image = augment(decode_image(data), settings, **drawn)
    assert image.tobytes() == read_augmented(data, settings, decoder="pil", **drawn).tobytes()
    assert image.tobytes() == read_augmented(data, settings, decoder="pil-draft", **drawn).tobytes()
    assert hashlib.sha256(image.tobytes()).hexdigest()[:16] == "1af7ab4c4371e6b0"

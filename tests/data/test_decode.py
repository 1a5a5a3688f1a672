from __future__ import annotations

import io
import json
import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from xmodal.data.decode import MAX_PIXELS, SampleError, decode
from xmodal.data.hashing import stable_hash
from xmodal.data.reader import RawSample
from xmodal.errors import DataError


def raw(**members):
    return RawSample("key7", "shard-000003.tar", {name.replace("_", "."): data for name, data in members.items()})


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def image_of(data, extension="png"):
    image = decode(raw(**{extension: data}), fields=("image",))["image"]
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


NOISE = np.random.default_rng(0).integers(0, 256, (5, 9, 4), dtype=np.uint8)


def test_transparency_is_laid_over_white():
    alpha = NOISE[..., 3:] / 255
    expected = NOISE[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(image_of(encoded(Image.fromarray(NOISE))) - expected).max() <= 1
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert image_of(encoded(palette, transparency=0)).tolist() == [[[255, 255, 255], [40, 50, 60]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = np.zeros((4, 6, 3), np.uint8)
    upright[0, 0] = 255  # the corner that tells the eight apart, with the shape
    upright[0, 1] = 128
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo(upright)))
    assert np.array_equal(image_of(encoded(stored, exif=exif)), upright)


def test_sixteen_bit_and_grey_pictures_keep_their_range():
    grey = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    assert np.abs(image_of(encoded(Image.fromarray(grey)))[..., 0] - grey / 257).max() <= 1
    assert image_of(encoded(Image.fromarray(NOISE[..., 0])))[..., 2].tolist() == NOISE[..., 0].tolist()
    assert image_of(encoded(Image.new("CMYK", (2, 2), (0, 0, 0, 255)), "JPEG"), "jpg").max() < 8


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_the_content_and_not_the_extension_says_the_format(format):
    assert np.abs(image_of(encoded(Image.new("RGB", (8, 8), (200, 40, 90)), format)) - (200, 40, 90)).max() < 8


def png_of_size(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


PICTURE = encoded(Image.fromarray(NOISE[..., :3]))


@pytest.mark.parametrize(
    ("members", "fields", "reason"),
    [
        ({}, ("image",), "has no picture, only nothing"),
        ({"txt": b"x"}, ("image",), "has no picture, only txt"),
        ({"png": b""}, ("image",), r"empty \(0 bytes\)"),
        ({"png": b"not a picture"}, ("image",), r"not one of PNG.*13 bytes"),
        ({"png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}, ("image",), "not one of PNG"),
        ({"png": PICTURE[:90]}, ("image",), "cannot be decoded"),
        ({"png": PICTURE[:60] + b"\0\1\2" + PICTURE[63:]}, ("image",), "cannot be decoded"),
        ({"jpg": encoded(Image.new("RGB", (64, 64)), "JPEG")[:300]}, ("image",), "cannot be decoded|not one of"),
        ({"png": png_of_size(9000, 9000)}, ("image",), "9000 × 9000 pixels"),
        ({"png": png_of_size(60000, 60000)}, ("image",), f"more than {MAX_PIXELS}"),
        ({"tif": encoded(Image.new("F", (3, 3)), "TIFF")}, ("image",), "32-bit"),
        ({"a_png": PICTURE, "b_png": PICTURE}, ("image",), "2 pictures, a.png, b.png"),
        ({"png": PICTURE}, ("image", "text"), "has no text 'txt', only png"),
        ({"txt": b"  \n"}, ("text",), "empty"),
        ({"txt": b"caf\xe9"}, ("text",), r"not UTF-8 \(byte 3\)"),
        ({"png": PICTURE}, ("label",), "has no label"),
        ({"cls": b"cat"}, ("label",), "not an integer"),
        ({"cls": b""}, ("label",), "not an integer"),
        ({"cls": b"9" * 5000}, ("label",), "not an integer"),
        ({"wav": b"x"}, ("audio",), "sound is not one of WAV"),
        ({"wav": b"x"}, ("video",), "no decoder for video; there are image, audio, text and label"),
    ],
)
def test_what_cannot_be_decoded_is_a_sample_error_that_names_sample_shard_and_reason(members, fields, reason):
    with pytest.raises(SampleError, match=reason) as error:
        decode(raw(**members), fields=fields)
    assert (error.value.key, error.value.shard) == ("key7", "shard-000003.tar")
    assert "key7" in str(error.value)
    assert "shard-000003.tar" in str(error.value)
    assert isinstance(error.value, DataError)


def test_a_sample_error_comes_whole_out_of_a_pickle():
    error = pickle.loads(pickle.dumps(SampleError("k", "s", "r")))
    assert (error.key, error.shard, error.reason, str(error)) == ("k", "s", "r", str(SampleError("k", "s", "r")))


def test_only_the_fields_asked_for_are_decoded_and_text_and_label_where_they_are():
    sample = decode(raw(png=b"broken", txt="\ufeff café \n".encode(), cls=b"12\n"), fields=("text",))
    assert sample == {"key": "key7", "text": "café", "label": 12}
    assert set(decode(raw(png=PICTURE), fields=("image",))) == {"key", "image"}
    assert decode(raw(cls=b"-1"), fields=()) == {"key": "key7", "label": -1}


def test_a_plain_picture_goes_before_a_named_one():
    other = encoded(Image.new("RGB", (1, 1)))
    assert image_of_members({"seg_png": other, "png": PICTURE}).size == (9, 5)
    assert image_of_members({"photo_png": other}).size == (1, 1)


def image_of_members(members):
    return decode(raw(**members), fields=("image",))["image"]


ABOUT = {
    "name": "owl",
    "keywords": ["bird", "night", "wise"],
    "deep": {"er": [{"x": "y"}]},
    "n": 3,
    "none": [],
    "b": "",
}


def test_a_dotted_path_reaches_into_json():
    sample = raw(json=json.dumps(ABOUT).encode())
    assert decode(sample, fields=("text",), text="json.name")["text"] == "owl"
    assert decode(sample, fields=("text",), text="json.deep.er.0.x")["text"] == "y"
    assert "text" not in decode(sample, fields=())  # no txt member, and not asked for


def test_of_a_list_one_entry_is_picked_by_seed_view_and_key_alone():
    sample = raw(json=json.dumps(ABOUT).encode())

    def pick(view, seed):
        return decode(sample, fields=("text",), text="json.keywords", view=view, seed=seed)["text"]

    expected = [ABOUT["keywords"][stable_hash(seed, view, "key7") % 3] for seed in range(3) for view in range(9)]
    assert [pick(view, seed) for seed in range(3) for view in range(9)] == expected
    assert set(expected) == set(ABOUT["keywords"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("json.nam", "there is no 'nam'; it has name, keywords"),
        ("json.n", "is int"),
        ("json.none", "is list"),
        ("json.deep.er.5.x", "there is no '5'"),
        ("json.b", "is empty"),
        ("json.name.x", "there is no 'x'"),
        ("xml.name", "has no text 'xml.name', only json"),
    ],
)
def test_a_dotted_path_that_leads_nowhere_says_where_it_ends(text, reason):
    with pytest.raises(SampleError, match=reason):
        decode(raw(json=json.dumps(ABOUT).encode()), fields=("text",), text=text)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff", b"1" * 5000])
def test_broken_json_is_a_sample_error(content):
    with pytest.raises(SampleError, match=r"JSON|there is no 'x'"):
        decode(raw(json=content), fields=("text",), text="json.x")

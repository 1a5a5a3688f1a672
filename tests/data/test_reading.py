"""How a training sample is read: its picture by the named decoder, its sound cut, its masks drawn."""

from __future__ import annotations

import io

import numpy as np
import pytest
import skimage.data
import soundfile
from PIL import Image

from xmodal.data.augment import augment, read_augmented
from xmodal.data.decode import MemberError, SampleError
from xmodal.data.images import decode_image
from xmodal.data.reader import RawSample
from xmodal.data.reading import Reading, as_it_is
from xmodal.data.spectrogram import draw_masks
from xmodal.recipe import Augment


def jpeg():
    buffer = io.BytesIO()
    Image.fromarray(skimage.data.coffee()).save(buffer, "JPEG")
    return buffer.getvalue()


def flac():
    buffer = io.BytesIO()
    soundfile.write(buffer, np.linspace(-0.9, 0.9, 16_000), 16_000, format="FLAC")
    return buffer.getvalue()


RAW = RawSample("cup", "s.tar", {"jpg": jpeg(), "flac": flac(), "txt": b"a cup"})
PLAN = Augment(crop_scale=(0.4, 1.0), flip=0.5, audio_seconds=0.25, time_masks=1)


@pytest.mark.parametrize("decoder", ["pil", "simplejpeg", "simplejpeg-draft"])
def test_a_picture_is_read_by_the_named_decoder_and_changed_by_seed_view_and_key(decoder):
    reading = Reading(seed=3, image_size=64, augment=PLAN, decoder=decoder)
    found = reading(RAW, fields=("image",), text="txt", view=2)["image"]
    drawn = {"size": 64, "seed": 3, "view": 2, "key": "cup"}
    assert found.tobytes() == read_augmented(RAW.members["jpg"], PLAN, decoder=decoder, **drawn).tobytes()
    if decoder == "pil":
        assert found.tobytes() == augment(decode_image(RAW.members["jpg"]), PLAN, **drawn).tobytes()


def test_a_training_sound_is_a_part_and_has_its_masks_and_evaluation_hears_all_of_it():
    reading = Reading(seed=3, augment=PLAN)
    first, second = (reading(RAW, fields=("audio",), text="txt", view=view) for view in (0, 1))
    assert "image" not in first
    assert [len(sample["audio"][0]) for sample in (first, second)] == [4000, 4000]
    assert first["audio"][0][0] != second["audio"][0][0]
    assert first["spectrogram_masks"] == draw_masks(PLAN, seed=3, view=0, key="cup")
    whole = as_it_is(RAW, fields=("audio",), text="txt")
    assert len(whole["audio"][0]) == 16_000
    assert "spectrogram_masks" not in whole


def test_a_picture_that_a_decoder_cannot_read_is_a_sample_error_with_its_name():
    broken = RawSample("cup", "s.tar", {"jpg": RAW.members["jpg"][:-9000]})
    for decoder in ("pil", "simplejpeg"):
        with pytest.raises(SampleError, match=r"Sample 'cup' of s\.tar: picture cannot be decoded") as error:
            Reading(image_size=64, decoder=decoder)(broken, fields=("image",), text="txt", view=0)
        assert not isinstance(error.value, MemberError)

"""From a sample's bytes to a picture, a sound, a text and a label; what cannot be decoded is a :class:`SampleError`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from xmodal.data.audio import audio_member, decode_audio
from xmodal.data.features import decode_features
from xmodal.data.images import IMAGE_EXTENSIONS, MAX_PIXELS, decode_image, image_member, opened_image
from xmodal.data.members import MemberError, SampleError
from xmodal.data.reader import RawSample
from xmodal.data.texts import decode_json, decode_label, decode_text, label_at, split_path, text_at

__all__ = [
    "FIELDS",
    "IMAGE_EXTENSIONS",
    "MAX_PIXELS",
    "MemberError",
    "SampleError",
    "decode",
    "decode_image",
    "decode_json",
    "decode_label",
    "decode_text",
    "image_member",
    "opened_image",
    "split_path",
]

FIELDS = ("image", "audio", "text", "label")


def decode(
    raw: RawSample,
    *,
    fields: Collection[str],
    text: str = "txt",
    label: str = "cls",
    features: Mapping[str, str] | None = None,
    texts: Mapping[str, str] | None = None,
    view: int = 0,
    seed: int = 0,
    picture: Callable[[bytes], Any] = decode_image,
    sound: Callable[[bytes], Any] = decode_audio,
) -> dict[str, Any]:
    """Decode ``fields`` of a sample, and ``text`` and ``label`` wherever the sample has them.

    Returns ``key`` (str) and, of these, what was asked for or found:

    - ``image``: a PIL picture, RGB, transparency laid over white, turned as its EXIF orientation says; of an animation
      the first frame (or whatever ``picture`` makes of the bytes);
    - ``audio``: mono samples, a float32 array ``[frames]``, and their rate in Hz (or what ``sound`` makes of it);
    - ``text``: the member ``text`` (UTF-8, outer white space removed), or, for a dotted path such as ``json.keywords``,
      a string in a JSON member. Of a list one entry is picked by hash of (seed, view, key);
    - ``label``: the integer in the member ``label``, or at a dotted path such as ``json.label``;
    - each name in ``texts``: a string, as of ``text``; of a list the entry picked hangs on the name as well;
    - ``features``: the tensors that ``features`` names (see :func:`~xmodal.data.features.decode_features`).

    Raises :class:`SampleError` where a member is missing, empty or broken.
    """
    sample: dict[str, Any] = {"key": raw.key}
    try:
        if unknown := set(fields) - set(FIELDS):
            raise MemberError(
                f"no decoder for {', '.join(sorted(unknown))}; there are {', '.join(FIELDS[:-1])} and {FIELDS[-1]}"
            )
        if "image" in fields:
            sample["image"] = picture(raw.members[image_member(raw.members)])
        if "audio" in fields:
            sample["audio"] = sound(raw.members[audio_member(raw.members)])
        if "text" in fields or split_path(raw.members, text) is not None:
            sample["text"] = text_at(raw.members, text, key=raw.key, view=view, seed=seed)
        if "label" in fields or split_path(raw.members, label) is not None:
            sample["label"] = label_at(raw.members, label)
        for name, place in (texts or {}).items():
            sample[name] = text_at(raw.members, place, key=raw.key, view=view, seed=seed, name=name)
        if features:
            sample["features"] = decode_features(raw.members, features)
    except MemberError as error:
        raise SampleError(raw.key, raw.shard, str(error)) from error.__cause__
    return sample

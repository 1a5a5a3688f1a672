"""What is wrong with one sample's members: everything that training or evaluation could decode is decoded."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from xmodal.data.audio import AUDIO_EXTENSIONS, audio_member, decode_audio
from xmodal.data.decode import IMAGE_EXTENSIONS, decode_image, decode_json, decode_label, decode_text, image_member
from xmodal.data.decoders import DEFAULT_DECODER, decode_picture
from xmodal.data.features import FEATURE_EXTENSIONS, decode_features
from xmodal.data.members import MemberError

_CODE = frozenset({"pyd", "pickle", "pkl", "pth", "pt", "ckpt", "joblib", "dill"})
"""Extensions of files that do what their maker wanted when a careless reader unpickles them."""

_READ_WITH_CARE = "pth.gz"
"""MobileCLIP's, of which tensors alone are taken (see :mod:`xmodal.data.formats.reinforced`)."""
_JPEG = b"\xff\xd8"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_MEDIA = {"picture": (IMAGE_EXTENSIONS, image_member), "sound": (AUDIO_EXTENSIONS, audio_member)}


def kinds_of(members: Collection[str]) -> frozenset[str]:
    """What a sample has, so that samples can be compared: ``picture``, ``sound``, other members by their extensions.

    >>> sorted(kinds_of(["photo.png", "txt"])), sorted(kinds_of(["jpg", "seg.png"]))
    (['picture', 'txt'], ['picture', 'seg.png'])
    """
    kinds = set(members)
    for kind, (extensions, _) in _MEDIA.items():
        if found := _candidates(members, extensions):
            kinds = kinds.difference(found) | {kind}
    return frozenset(kinds)


def can_hold_code(member: str) -> bool:
    """Whether a member is of a kind that is unpickled elsewhere.

    >>> can_hold_code("pkl"), can_hold_code("state.pt"), can_hold_code("pth.gz"), can_hold_code("png")
    (True, True, False, False)
    """
    return bool(_CODE.intersection(member.split("."))) and not member.endswith(_READ_WITH_CARE)


def member_problems(members: Mapping[str, bytes]) -> Iterator[str]:
    """Every problem of a sample's members, each with the member's extension before it."""
    media = {}
    for extensions, choose in _MEDIA.values():
        if _candidates(members, extensions):
            try:
                name = choose(members)
                media[name] = _picture if extensions is IMAGE_EXTENSIONS else decode_audio
            except MemberError as error:
                yield str(error)
    for name, data in members.items():
        if not data:
            yield f".{name}: empty (0 bytes)"
            continue
        last = name.rpartition(".")[2]
        decode = media.get(name) or _TEXTS.get(last)
        try:
            if decode is not None:
                decode(data)
            elif last in FEATURE_EXTENSIONS:
                decode_features({name: data}, {place: place for place in _places(name, data)})
        except MemberError as error:
            yield f".{name}: {error}"


def _candidates(members: Collection[str], extensions: Collection[str]) -> list[str]:
    """The members of which a reader has to take one: with a plain extension or, failing that, with a dotted one."""
    plain = [name for name in members if name in extensions]
    return plain or [name for name in members if name.rpartition(".")[2] in extensions]


def _picture(data: bytes) -> None:
    decode_image(data)  # as evaluation does, and the packing
    if data.startswith(_JPEG):  # of a JPEG with small faults one library makes a picture and another does not
        try:
            decode_picture(data, DEFAULT_DECODER)
        except MemberError as error:
            raise MemberError(f"data.decoder={DEFAULT_DECODER}: {error}") from error


def _json(data: bytes) -> None:
    value = decode_json(data)
    if _SURROGATE.search(data):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise MemberError("a string in it has half a surrogate pair, which no tokenizer reads") from error


_TEXTS: Mapping[str, Callable[[bytes], Any]] = {"txt": decode_text, "json": _json, "cls": decode_label}


def _places(name: str, data: bytes) -> list[str]:
    """The arrays of a member, as :func:`~xmodal.data.features.decode_features` wants them named."""
    inner: list[str] = []
    try:
        if name.endswith("npz"):
            inner = [entry.removesuffix(".npy") for entry in zipfile.ZipFile(io.BytesIO(data)).namelist()]
        elif name.endswith("safetensors"):
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            inner = [entry for entry in header if entry != "__metadata__"]
    except (ValueError, OSError, zipfile.BadZipFile, RecursionError):
        pass  # reading it will say what is wrong
    return [f"{name}:{entry}" for entry in inner] or [name]

"""What a cache was made from: whatever decides a teacher's features, so that another's are refused."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from xmodal.data.reading import Reading
from xmodal.errors import DataError
from xmodal.recipe import Augment, as_dict

_SWITCHES = {
    "crop_ratio": ("crop_scale",),
    "policy_changes": ("policy",),
    "policy_magnitude": ("policy",),
    "erase_scale": ("erase",),
    "mix_share": ("mixup", "cutmix"),
    "time_mask": ("time_masks",),
    "frequency_mask": ("frequency_masks",),
}
"""Changes that do nothing where none of their switches is on."""
_MASKS = {"time_masks", "time_mask", "frequency_masks", "frequency_mask"}
"""Blanked in a front end that is being trained, which a frozen teacher's never is."""
_SOUND = {"audio_seconds", *_MASKS}
_PICTURE = {
    *("crop_scale", "crop_ratio", "flip", "rotation", "color_jitter", "hue_jitter", "grayscale"),
    *("policy", "policy_changes", "policy_magnitude", "erase", "erase_scale", "mixup", "cutmix", "mix_share"),
}
_OTHERS = {"image": _SOUND, "audio": _PICTURE | _MASKS, "text": _SOUND | _PICTURE}
"""Modality → changes that are none to it; one that is not known here counts for all but text."""
_FOR_PICTURES = {"image_size", "decoder"}
_BY_VIEW = {"seed", "views"}


@dataclass(frozen=True)
class TopK:
    """Of logits, the ``k`` largest are kept, of the softmax at ``temperature``."""

    k: int
    temperature: float = 1.0


@dataclass(frozen=True)
class Contract:
    """``teacher`` says who it is (see :func:`~xmodal.data.cache.shard.describe_teacher`), ``reading`` how samples are
    read (see :func:`settings_of`), ``text`` which member holds the text.
    """

    teacher: Mapping[str, Any]
    reading: Mapping[str, Any]
    text: str = "txt"
    top_k: TopK | None = None

    @property
    def identity(self) -> str:
        return str(self.teacher["identity"])

    @property
    def fields(self) -> frozenset[str]:
        """What the teacher reads of a sample."""
        return frozenset(self.teacher["fields"])

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.teacher["modalities"])

    @property
    def views(self) -> int | None:
        """Distinct augmentations of a sample; None where every epoch brings a new one."""
        value: int | None = self.reading.get("views")
        return value

    def varies(self, modality: str) -> bool:
        """Whether augmentation changes what a teacher gets to see of ``modality``, view by view. Not so text's."""
        return bool(changes_of(self.reading.get("augment") or {}, modality))

    def differences(self, other: Contract, *, varying: bool, tops: bool = True) -> list[str]:
        """What of the other's would give other features; ``varying`` where a view is not like another, ``tops`` where
        both are of the likeliest classes.

        Views themselves are not compared: each is the same however many there are.
        """
        found = []
        if self.identity != other.identity:
            found.append(f"teacher {other.teacher['name']} ({other.identity}), not {self.identity}")
        if self.text != other.text and "text" in self.fields:
            found.append(f"text {other.text!r}, not {self.text!r}")
        for name in sorted({*self.reading, *other.reading}):
            mine, theirs = self._setting(name), other._setting(name)
            if mine != theirs and self._matters(name, varying):
                found.append(f"{name} {_show(theirs)}, not {_show(mine)}")
        if tops and self.top_k is not None and self.top_k != other.top_k:
            theirs = other.top_k
            found.append(f"logits kept {_top(other.top_k)}, not {_top(self.top_k)}")
        return found

    def _setting(self, name: str) -> Any:
        """A setting; of the augmentation, the changes to what this teacher reads, of stored features those it reads."""
        value = self.reading.get(name)
        if name == "features":
            return {feature: place for feature, place in (value or {}).items() if feature in self.fields}
        if name != "augment":
            return value
        return {k: v for modality in self.modalities for k, v in changes_of(value or {}, modality).items()}

    def _matters(self, setting: str, varying: bool) -> bool:
        if setting in _BY_VIEW:
            return varying and setting != "views"
        if setting in _FOR_PICTURES:
            return "image" in self.fields
        if setting == "label":
            return "label" in self.fields
        return bool(self.fields - {"text", "label"})

    def to_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = plain(asdict(self))
        return values

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Contract:
        """Raises KeyError or TypeError where ``given`` is none."""
        known = {entry.name for entry in fields(cls)}
        top_k = TopK(**given["top_k"]) if given.get("top_k") else None
        return cls(**{**{name: given[name] for name in known if name in given}, "top_k": top_k})


@dataclass(frozen=True)
class Wanted:
    """What a run asks of one shard's sidecar; ``exact`` where a manifest's word on the shard's bytes is not enough."""

    contract: Contract
    taps: tuple[str, ...]
    shard: str
    samples: int
    size: int
    sha256: str | None = None
    views: int = 1
    exact: bool = False


def changes_of(augment: Mapping[str, Any], modality: str) -> dict[str, Any]:
    """The settings that change what a model gets to see of ``modality``, view by view.

    >>> changes_of({"flip": 0.5, "crop_ratio": [0.5, 2.0], "time_masks": 2}, "image")
    {'flip': 0.5}
    """
    if modality == "text":  # whose views are picked from a list, not changed
        return {}
    still: dict[str, Any] = plain(as_dict(Augment()))
    on = {name: value for name, value in augment.items() if value is not None and value != still.get(name)}
    return {
        name: value
        for name, value in sorted(on.items())
        if name not in _OTHERS.get(modality, set())
        and (name not in _SWITCHES or any(switch in on for switch in _SWITCHES[name]))
    }


def settings_of(reading: Reading) -> dict[str, Any]:
    """Everything that decides a sample beside its bytes, as JSON has it."""
    settings = {entry.name: as_dict(getattr(reading, entry.name)) for entry in fields(reading) if entry.name != "texts"}
    made: dict[str, Any] = plain(settings)
    return made


def plain(value: Any) -> Any:
    """As JSON gives it back: tuples are lists, keys are texts."""
    return json.loads(json.dumps(value, sort_keys=True))


def refuse_mixing(contract: Contract) -> None:
    """Raises :class:`DataError` where pictures of a batch are mixed, of which a cache can know nothing."""
    augment = contract.reading.get("augment") or {}
    if "image" in contract.fields and (augment.get("mixup") or augment.get("cutmix")) and augment.get("mix_share"):
        raise DataError(
            f"data.augment mixes the pictures of a batch (mixup, cutmix), and {contract.teacher['name']} would have to "
            "see each mixture: no cache can hold them. Leave mixup and cutmix at 0, or the teacher uncached."
        )


def modalities_of(tap: str, modalities: Collection[str]) -> tuple[str, ...]:
    """What a tap is computed from: the modality at its head, or all of the model's."""
    head = tap.partition(".")[0]
    return (head,) if head in modalities else tuple(modalities)


def _show(value: Any) -> str:
    return json.dumps(value)


def _top(top_k: TopK | None) -> str:
    return "whole" if top_k is None else f"as the top {top_k.k} at temperature {top_k.temperature:g}"

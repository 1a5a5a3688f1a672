"""Mixup and cutmix on decoded pictures, before any model's own preprocessing: all models see the same mixture.

Zhang et al. 2017, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from PIL import Image

from xmodal.data.hashing import stable_hash
from xmodal.recipe import Augment


@dataclass(frozen=True)
class Mix:
    """What a picture was mixed with: the ``partner``'s key; ``weight`` is the picture's own share, 0.5 to 1.

    ``box`` (left, top, right, bottom, pixels) is the partner's part in cutmix, None in mixup.
    """

    partner: str
    weight: float
    box: tuple[int, int, int, int] | None = None


def mixes(settings: Augment) -> bool:
    """Whether these settings mix pictures at all."""
    return bool((settings.mixup or settings.cutmix) and settings.mix_share)


def mix_batch(
    samples: Sequence[Mapping[str, Any]], settings: Augment, *, seed: int, groups: Sequence[Hashable] | None = None
) -> list[dict[str, Any]]:
    """The samples, of which a share has its picture mixed with that of another one.

    A sample's partner is another of the same entry in ``groups`` (one group by default), given by the keys; whether,
    how and how much it is mixed comes from (seed, its view, its key). A sample alone in its group, or without a
    picture, stays as it is. A partner of another size is resized. Of mixup and cutmix, both on, each gets half.

    A mixed sample has its :class:`Mix` in ``mix``. Its text stays its own, which is the reason why its own share is
    never below a half. Where both samples have a label there is ``label_mix``: (own label, partner's, own share).
    """
    mixed = [dict(sample) for sample in samples]
    if not mixes(settings):
        return mixed
    for place, other in _partners(samples, seed, groups or [0] * len(samples)).items():
        sample, partner = samples[place], samples[other]
        random = Random(stable_hash("mix", seed, sample["view"], sample["key"]))
        if random.random() >= settings.mix_share:
            continue
        image, mix = _mixed(sample["image"], partner["image"], settings, str(partner["key"]), random)
        mixed[place].update(image=image, mix=mix)
        if "label" in sample and "label" in partner:
            mixed[place]["label_mix"] = (sample["label"], partner["label"], mix.weight)
    return mixed


def mix_groups(positions: Sequence[int], *, slots: int, batch_size: int) -> list[int]:
    """Groups for the samples at these positions of a :class:`~xmodal.data.plan.Plan`: a slot each, or two of them.

    A rank owns whole slots, neighbours of one another. So mixtures do not depend on the number of ranks: not at all
    where a batch has two samples a slot or more; up to half as many ranks as slots where it has one.
    """
    together = 1 if batch_size >= 2 * slots else 2
    return [position % slots // together for position in positions]


def _partners(samples: Sequence[Mapping[str, Any]], seed: int, groups: Sequence[Hashable]) -> dict[int, int]:
    """The place of each sample's partner: the next in its group, in an order by hash. The samples' own does not count.

    The order is drawn anew for each view.
    """
    members: dict[Hashable, list[tuple[int, int]]] = {}
    for place, (sample, group) in enumerate(zip(samples, groups, strict=True)):
        if "image" in sample:
            rank = stable_hash("partner", seed, sample["view"], sample["key"])
            members.setdefault(group, []).append((rank, place))
    partners: dict[int, int] = {}
    for ranked in members.values():
        places = [place for _, place in sorted(ranked)]
        if len(places) > 1:
            partners.update(zip(places, places[1:] + places[:1], strict=True))
    return partners


def _mixed(
    image: Image.Image, partner: Image.Image, settings: Augment, key: str, random: Random
) -> tuple[Image.Image, Mix]:
    choice, x, y = (random.random() for _ in range(3))
    blends = choice < 0.5 if settings.mixup and settings.cutmix else bool(settings.mixup)
    alpha = settings.mixup if blends else settings.cutmix
    weight = random.betavariate(alpha, alpha)
    weight = max(weight, 1 - weight)
    if partner.size != image.size:
        partner = partner.resize(image.size, Image.Resampling.BICUBIC)
    if blends:
        return Image.blend(partner, image, weight), Mix(key, weight)
    # floor, so that the partner's part is never more than its share
    width, height = (int(side * math.sqrt(1 - weight)) for side in image.size)
    left, top = int(x * (image.width - width + 1)), int(y * (image.height - height + 1))
    box = (left, top, left + width, top + height)
    pasted = image.copy()
    pasted.paste(partner.crop(box), box)
    return pasted, Mix(key, 1 - width * height / (image.width * image.height), box)

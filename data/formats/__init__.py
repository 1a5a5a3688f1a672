"""What other tools have written: img2dataset's folders, clip_benchmark's layout, MobileCLIP's reinforced shards.

``replay`` shares its module's name: ``from xmodal.data.formats.replay import replay``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xmodal.data.formats.clip_benchmark import ShardFolder as ShardFolder
    from xmodal.data.formats.clip_benchmark import read_layout as read_layout
    from xmodal.data.formats.img2dataset import Statistics as Statistics
    from xmodal.data.formats.img2dataset import StatisticsFolder as StatisticsFolder
    from xmodal.data.formats.reinforced import Reinforced as Reinforced
    from xmodal.data.formats.reinforced import read_reinforced as read_reinforced
    from xmodal.data.formats.reinforced import reinforced_sample as reinforced_sample
    from xmodal.data.formats.replay import Parameters as Parameters
    from xmodal.data.formats.replay import parse_views as parse_views

_EXPORTS = {
    "Parameters": "replay",
    "Reinforced": "reinforced",
    "ShardFolder": "clip_benchmark",
    "Statistics": "img2dataset",
    "StatisticsFolder": "img2dataset",
    "parse_views": "replay",
    "read_layout": "clip_benchmark",
    "read_reinforced": "reinforced",
    "reinforced_sample": "reinforced",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:  # torch and Pillow are imported only by what needs them
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"xmodal.data.formats.{_EXPORTS[name]}"), name)

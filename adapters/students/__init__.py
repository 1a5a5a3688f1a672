"""Students: importing this package registers them all."""

from xmodal.adapters.students import clip, image, text

__all__ = ["clip", "image", "text"]

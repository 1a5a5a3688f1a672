"""Students: importing this package registers them all."""

from xmodal.adapters.students import clip, image, static_text, text

__all__ = ["clip", "image", "static_text", "text"]

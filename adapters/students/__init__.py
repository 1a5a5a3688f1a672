"""Students: importing this package registers them all."""

from xmodal.adapters.students import clip, image, open_clip, static_text, text

__all__ = ["clip", "image", "open_clip", "static_text", "text"]

"""Teachers: importing this package registers them all."""

from xmodal.adapters.teachers import sentence, timm

__all__ = ["sentence", "timm"]

"""Teachers: importing this package registers them all."""

from xmodal.adapters.teachers import reinforced, sentence, timm

__all__ = ["reinforced", "sentence", "timm"]

"""Teachers: importing this package registers them all."""

from xmodal.adapters.teachers import ensemble, open_clip, reinforced, sentence, timm, transformers

__all__ = ["ensemble", "open_clip", "reinforced", "sentence", "timm", "transformers"]

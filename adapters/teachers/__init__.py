"""Teachers: importing this package registers them all."""

from xmodal.adapters.teachers import ema, ensemble, open_clip, reinforced, sentence, timm, trained, transformers

__all__ = ["ema", "ensemble", "open_clip", "reinforced", "sentence", "timm", "trained", "transformers"]

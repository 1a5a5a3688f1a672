"""A tokenizer of the student's own, learned from its texts, whatever their script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from xmodal.errors import AdapterError

TRAINED = "trained"
"""What a recipe says in a tokenizer's place to have one learned."""

DEFAULT_SIZE = 8000
_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def train_tokenizer(texts: Iterable[str], size: int | None = None, max_length: int = 512) -> Any:
    """A fast tokenizer of at most ``size`` (8000) tokens: byte-pair encoding (arXiv:1508.07909) in lower case.

    Words carry their blank, so scripts without blanks are cut as well as others. The same texts give the same tokens:
    letters come first, the most frequent ones where they are more than half of ``size``. Raises :class:`AdapterError`
    where there are no texts or ``size`` leaves no room for words.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    size = DEFAULT_SIZE if size is None else size
    said = [text for text in texts if text.strip()]
    if not said:
        raise AdapterError("A tokenizer was to be learned from texts, and there are none. Look at student.texts.")
    if size < 4 * len(_SPECIAL):
        raise AdapterError(f"vocab_size {size} leaves no room for words; give {4 * len(_SPECIAL)} or more.")
    special = list(_SPECIAL.values())
    backend = Tokenizer(models.BPE(unk_token=_SPECIAL["unk_token"]))
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    backend.decoder = decoders.Metaspace()
    letters = _letters(backend, said, size // 2)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=special,
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        show_progress=False,
    )
    backend.train_from_iterator(said, trainer, length=len(said))
    ids = {token: number for number, token in enumerate(special)}  # a trainer numbers them first
    first, last = _SPECIAL["cls_token"], _SPECIAL["sep_token"]
    backend.post_processor = processors.BertProcessing((last, ids[last]), (first, ids[first]))
    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_object=backend, model_max_length=max_length, **_SPECIAL)


def _letters(backend: Any, texts: Iterable[str], most: int) -> list[str]:
    """The ``most`` frequent letters. A trainer with more than it may keep would choose among rare ones by chance."""
    counts: Counter[str] = Counter()
    for text in texts:
        for piece, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text)):
            counts.update(piece)
    return sorted(counts, key=lambda letter: (-counts[letter], letter))[:most]

"""What a user did, what was expected, and how to mend it: every mistake that is not ours.

All errors of the library derive from :class:`XmodalError`. The command line prints their message without a
traceback; anything else that escapes is a bug of ours.
"""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class XmodalError(Exception):
    """A mistake that the user can mend. The message says what was given, what was expected and the mend."""


class AdapterError(XmodalError):
    """A teacher, student or projection that cannot be made, loaded or asked for what was asked."""


class DataError(XmodalError):
    """A shard, manifest, sample or stream that is missing, broken or not what the run expects."""


class EvaluationError(XmodalError):
    """A task that this student, teacher or data cannot be measured by."""


class LossError(XmodalError, ValueError):
    """A loss called with tensors or options that do not fit its formula."""


class RecipeFileError(XmodalError):
    """A recipe file that cannot be found, read or written."""


class RunError(XmodalError):
    """A run folder, checkpoint or training state that cannot be used as asked."""


class Interrupted(XmodalError):  # noqa: N818  it is not an error
    """The user stopped a run; it was saved, and the message says how to go on."""


class ZooError(XmodalError):
    """A zoo index, download or publication that is refused."""


class TransferError(ZooError, DataError):
    """An address that cannot be read or written: a zoo's as well as a remote shard's."""


class UnknownNameError(XmodalError, KeyError):
    """A name that a registry does not hold; the message lists the nearest ones it does."""

    def __init__(self, kind: str, name: str, known: Iterable[str], note: str = "") -> None:
        self.kind, self.name, self.known = kind, name, tuple(known)
        super().__init__(f"{name!r} is not a {kind}. {hint(name, self.known)}" + (f". {note}" if note else ""))

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0])


@dataclass(frozen=True)
class Mistake:
    """One thing wrong with a recipe: the dotted ``path`` of the key and what to do about it."""

    path: str
    message: str

    def lines(self, width: int) -> list[str]:
        """Indented, the message in a column of its own behind ``width`` letters of path, wrapped at 118."""
        room = 118 - width - 4
        wrapped = [
            line
            for paragraph in self.message.split("\n")
            for line in textwrap.wrap(paragraph, room, break_long_words=False, break_on_hyphens=False) or [""]
        ]
        indent = " " * (width + 4 if self.path else 2)
        first = f"  {self.path:<{width}}  {wrapped[0]}" if self.path else indent + wrapped[0]
        return [first, *(indent + line for line in wrapped[1:])]


class RecipeError(XmodalError):
    """Every mistake of a recipe at once, before anything costs time; ``consequence`` says what did not happen."""

    def __init__(
        self, mistakes: Sequence[Mistake], source: str = "recipe", consequence: str = "nothing was loaded"
    ) -> None:
        self.mistakes, self.source = tuple(mistakes), source
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        width = min(max((len(mistake.path) for mistake in mistakes), default=0), 40)
        lines = [line for mistake in mistakes for line in mistake.lines(width)]
        super().__init__("\n".join([f"{source} has {count}; {consequence}.", *lines]))


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line of at most 300 characters; its type's name where it is silent.

    >>> first_line(ValueError("bad header\nfollowed by much else")), first_line(EOFError())
    ('bad header', 'EOFError')
    """
    return f"{(str(error).strip() or type(error).__name__).splitlines()[0]:.300}"


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The ``known`` names that look most like ``name``, best first.

    >>> nearest("learnig_rate", ["learning_rate", "seed"])
    ['learning_rate']
    """
    return difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)


def hint(name: str, known: Iterable[str]) -> str:
    """A sentence that points from a wrong name to right ones.

    >>> hint("sentense", ["sentence", "timm"])
    'Nearest: sentence'
    >>> hint("zzz", ["sentence", "timm"])
    'Known: sentence, timm'
    """
    known = sorted(known)
    close = nearest(name, known)
    if close:
        return f"Nearest: {', '.join(close)}"
    listed = ", ".join(known[:20]) + (f", … ({len(known)} in all)" if len(known) > 20 else "")
    return f"Known: {listed}" if known else "None is registered."

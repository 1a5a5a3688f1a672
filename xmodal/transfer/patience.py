"""When a transfer is tried again, and when it is given up: the one policy of downloads and publications."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from xmodal.errors import TransferError

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How long a transfer is kept up: ``attempts`` in a row without a new byte, with pauses that double.

    ``timeout`` (of a silent server) and ``pause`` (the first one) are seconds; a pause that the server asks for is kept
    up to ``longest``.
    """

    attempts: int = 5
    timeout: float = 30.0
    pause: float = 0.5
    longest: float = 60.0

    def seconds(self, failures: int, asked: float = 0.0) -> float:
        """The pause after so many failures in a row: random in its upper half, so that many clients spread out."""
        grown = self.pause * 2.0 ** (failures - 1) * random.uniform(0.5, 1.0)
        return min(self.longest, max(asked, grown))


USUAL = Patience()
SILENCE = "the server sent nothing for too long"


class InterruptedTransferError(Exception):
    """A transfer that may succeed when tried again, after ``retry_after`` seconds if the server asked for them."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class RangeRefusedError(InterruptedTransferError):
    """The bytes from an offset on are not to be had: those before it do not fit, or ranges are not given."""


def keep_trying(
    action: Callable[[], T], patience: Patience, given_up: str, progress: Callable[[], int] = lambda: 0
) -> T:
    """The result of ``action``, which is called again after an :class:`InterruptedTransferError`.

    ``progress`` counts bytes that are there; failures are counted from the last time that it grew. At the end a
    :class:`TransferError` that begins with ``given_up``.
    """
    failures, most = 0, progress()
    while True:
        outcome = _once(action)
        if not isinstance(outcome, InterruptedTransferError):
            return outcome
        have = progress()
        failures = 1 if have > most else failures + 1
        most = max(most, have)
        if failures >= patience.attempts:
            times = f", {failures} times in a row" if failures > 1 else ""
            raise TransferError(f"{given_up}: {outcome}{times}.") from outcome
        time.sleep(patience.seconds(failures, outcome.retry_after))


def _once(action: Callable[[], T]) -> T | InterruptedTransferError:
    try:
        return action()
    except InterruptedTransferError as error:
        return error

"""A keyed shuffle of the numbers below ``count`` that is never stored: a Feistel network with cycle walking."""

from __future__ import annotations

from math import isqrt

_MASK = (1 << 64) - 1
_ROUNDS = 12  # with 8, some orders of five or six numbers come up visibly more often than others


class Permutation:
    """The permutation of ``range(count)`` that belongs to ``key``, in constant time and memory.

    A number is written as (low, high) in a nearly square box of ``low × high ≥ count`` cells. Each round adds a keyed
    hash of one half to the other, which can be undone, so the rounds permute the box; a number that lands outside
    ``range(count)`` walks on until it is back inside, which is rare since the box has at most √count cells too many.

    Called with an index it gives the number that stands there; :meth:`inverse` gives the place of a number.

    >>> shuffle = Permutation(10, key=7)
    >>> sorted(shuffle(i) for i in range(10)) == list(range(10)), shuffle.inverse(shuffle(3))
    (True, 3)
    """

    __slots__ = ("_high", "_keys", "_low", "_turns", "count")

    def __init__(self, count: int, key: int) -> None:
        if count < 1:
            raise ValueError(f"A permutation is of at least one number, not of {count}.")
        self.count = count
        self._low = isqrt(count - 1) + 1
        self._high = -(-count // self._low)
        # the golden ratio's odd multiples keep the rounds' keys apart, as in splitmix64
        self._keys = tuple(_mix((key + turn * 0x9E3779B97F4A7C15) & _MASK) for turn in range(1, _ROUNDS + 1))
        self._turns = tuple(zip(self._keys[::2], self._keys[1::2], strict=True))

    def __call__(self, index: int) -> int:
        if not 0 <= index < self.count:
            self._check(index)
        lows, highs = self._low, self._high
        while True:
            high, low = divmod(index, lows)
            for even, odd in self._turns:  # _mix written out: every sample takes some fifty turns
                number = high ^ even
                number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
                number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
                low = (low + (number ^ (number >> 31))) % lows
                number = low ^ odd
                number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
                number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
                high = (high + (number ^ (number >> 31))) % highs
            index = high * lows + low
            if index < self.count:
                return index

    def inverse(self, number: int) -> int:
        self._check(number)
        while True:
            high, low = divmod(number, self._low)
            for turn in reversed(range(_ROUNDS)):
                if turn % 2:
                    high = (high - _mix(low ^ self._keys[turn])) % self._high
                else:
                    low = (low - _mix(high ^ self._keys[turn])) % self._low
            number = high * self._low + low
            if number < self.count:
                return number

    def _check(self, index: int) -> None:
        if not 0 <= index < self.count:
            raise IndexError(f"{index} is not below {self.count}")


def _mix(number: int) -> int:
    """A 64-bit number in which every bit depends on every bit of ``number`` (splitmix64's finaliser)."""
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)

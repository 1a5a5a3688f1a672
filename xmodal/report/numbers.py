"""Numbers as a reader wants them: few digits, a unit, and a dash for what is not known."""

from __future__ import annotations

import math
from typing import Any

UNKNOWN = "—"
_NARROW = "\u202f"  # a narrow no-break space groups thousands and stands before a unit


def finite(value: Any) -> float | None:
    """``value`` as a float if it is a finite number, else None; what a JSON file holds may be anything.

    Beyond 1e300 nothing was measured, and below 1e-300 it was nothing: reckoning with such numbers overflows.

    >>> finite(3), finite("3"), finite(float("nan")), finite(True)
    (3.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer of more than 308 digits
        return None
    if abs(number) < 1e-300:
        return 0.0
    return number if abs(number) <= 1e300 else None  # NaN is not


def significant(value: Any, digits: int = 3) -> str:
    """``digits`` significant digits, plain where that stays short, with an exponent where it does not.

    >>> significant(0.081234), significant(1234.9), significant(2e-5), significant(3e9)
    ('0.0812', '1235', '2e-5', '3e9')
    """
    number = finite(value)
    if number is None:
        return UNKNOWN
    if number == 0:
        return "0"
    size = math.floor(math.log10(abs(number)))
    if -4 <= size < 6:
        text = f"{number:.{max(digits - 1 - size, 0)}f}"
        return _minus(text.rstrip("0").rstrip(".") if "." in text else text)
    mantissa, exponent = f"{number:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return _minus(f"{mantissa}e{int(exponent)}")


def count(value: Any) -> str:
    """A whole number with its thousands apart.

    >>> count(3422).replace(chr(0x202F), " "), count(None)
    ('3 422', '—')
    """
    number = finite(value)
    return UNKNOWN if number is None else _minus(f"{round(number):,}".replace(",", _NARROW))


def millions(value: Any) -> str:
    """A number of parameters.

    >>> millions(22_713_216).replace(chr(0x202F), " "), millions(980).replace(chr(0x202F), " ")
    ('22.7 M', '980')
    """
    number = finite(value)
    if number is None:
        return UNKNOWN
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= limit:
            return f"{significant(number / (1e3 if unit == 'k' else limit))}{_NARROW}{unit}"
    return count(number)


def file_size(value: Any) -> str:
    """Bytes in decimal units.

    >>> file_size(90_868_376).replace(chr(0x202F), " ")
    '90.9 MB'
    """
    number = finite(value)
    if number is None:
        return UNKNOWN
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(number) >= limit:
            return f"{significant(number / limit)}{_NARROW}{unit}"
    return f"{count(number)}{_NARROW}B"


def duration(value: Any) -> str:
    """Seconds, as hours and minutes where they are many.

    >>> [duration(s).replace(chr(0x202F), " ") for s in (4.24, 255, 7384)]
    ['4.2 s', '4 min 15 s', '2 h 3 min']
    """
    number = finite(value)
    if number is None or number < 0:
        return UNKNOWN
    if number < 60:
        return f"{significant(number, 2)}{_NARROW}s"
    whole = round(number)
    if whole < 3600:
        return f"{whole // 60}{_NARROW}min {whole % 60}{_NARROW}s"
    return f"{count(whole // 3600)}{_NARROW}h {whole % 3600 // 60}{_NARROW}min"


def milliseconds(value: Any) -> str:
    """A latency.

    >>> milliseconds(8.437).replace(chr(0x202F), " ")
    '8.44 ms'
    """
    return UNKNOWN if finite(value) is None else f"{significant(value)}{_NARROW}ms"


def percent(value: Any) -> str:
    """A share between 0 and 1.

    >>> percent(0.0234).replace(chr(0x202F), " ")
    '2.3 %'
    """
    number = finite(value)
    return UNKNOWN if number is None else f"{significant(100 * number, 2)}{_NARROW}%"


def measured(value: Any) -> str:
    """A metric: three decimals, more where they would make it look like exactly 0 or 1, which it is not.

    >>> measured(0.91249), measured(0.99955), measured(0.00004), measured(1), measured(12.5), measured(None)
    ('0.912', '0.9996', '0.00004', '1.000', '12.5', '—')
    """
    number = finite(value)
    if number is None:
        return UNKNOWN
    if abs(number) > 1:
        return significant(number, 4)
    digits = 3
    while digits < 9 and abs(number) not in (0, 1) and abs(round(number, digits)) in (0, 1):
        digits += 1
    return _minus(f"{number:.{digits}f}")


def signed(value: Any) -> str:
    """A difference of metrics, with its sign.

    >>> signed(0.2), signed(-0.0504), signed(0.0)
    ('+0.200', '−0.050', '0.000')
    """
    number = finite(value)
    if number is None:
        return UNKNOWN
    text = f"{number:+.3f}" if abs(number) <= 1 else f"{number:+.3g}"
    return text[1:] if not any(digit in text for digit in "123456789") else _minus(text)


def _minus(text: str) -> str:
    return f"−{text[1:]}" if text.startswith("-") else text

"""A query and the pictures it found, as one picture."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

PICTURE, GAP, MARGIN = 192, 24, 40
_INK, _GREY, _PAPER, _FRAME = (28, 28, 30), (120, 120, 125), (255, 255, 255), (232, 232, 234)


def contact_sheet(query: str, pictures: Sequence[tuple[Image.Image, str, str]], columns: int = 5) -> Image.Image:
    """``pictures`` are (picture, name, note) triples, best first; the query stands on top, the rest below each."""
    columns = max(1, min(columns, len(pictures)))
    title, name_font, note_font = (ImageFont.load_default(size) for size in (34, 20, 16))
    width = max(2 * MARGIN + columns * PICTURE + (columns - 1) * GAP, 640)
    heading = wrap(query, title, width - 2 * MARGIN, max_lines=3)
    head = MARGIN + len(heading) * 44 + 24
    names = [wrap(name, name_font, PICTURE, max_lines=2) for _, name, _ in pictures]
    rows = [range(start, min(start + columns, len(pictures))) for start in range(0, len(pictures), columns)]
    heights = [PICTURE + 12 + max(len(names[index]) for index in row) * 26 + 22 + GAP for row in rows]
    sheet = Image.new("RGB", (width, head + sum(heights) + MARGIN - GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(heading):
        draw.text((MARGIN, MARGIN + number * 44), line, fill=_INK, font=title)
    top = head
    for row, height in zip(rows, heights, strict=True):
        for column, index in enumerate(row):
            picture, _, note = pictures[index]
            left = MARGIN + column * (PICTURE + GAP)
            draw.rectangle((left - 1, top - 1, left + PICTURE, top + PICTURE), outline=_FRAME)
            fitted = fit(picture, PICTURE - 16)
            sheet.paste(fitted, (left + (PICTURE - fitted.width) // 2, top + (PICTURE - fitted.height) // 2))
            below = top + PICTURE + 12
            for line in names[index]:
                draw.text((left, below), line, fill=_INK, font=name_font)
                below += 26
            draw.text((left, below), note, fill=_GREY, font=note_font)
        top += height
    return sheet


def fit(picture: Image.Image, side: int) -> Image.Image:
    """The picture, its longer side ``side`` pixels, small ones enlarged."""
    scale = side / max(picture.size)
    size = [max(1, round(length * scale)) for length in picture.size]
    return picture.convert("RGB").resize((size[0], size[1]), Image.Resampling.LANCZOS)


def wrap(text: str, font: Any, width: int, *, max_lines: int) -> list[str]:
    """``text`` in lines of at most ``width`` pixels; what does not fit ends in an ellipsis."""
    lines: list[str] = []
    rest = " ".join(text.split())
    while rest and len(lines) < max_lines:
        end = _fitting(rest, font, width)
        if end < len(rest) and (space := rest.rfind(" ", 0, end + 1)) > 0:
            end = space
        lines.append(rest[:end])
        rest = rest[end:].lstrip()
    if rest:
        last = lines[-1]
        lines[-1] = last[: _fitting(last, font, width - font.getlength("…"))].rstrip() + "…"
    return lines


def _fitting(text: str, font: Any, width: float) -> int:
    """How many characters of ``text`` fit into ``width`` pixels; at least one."""
    return max(1, bisect_right(range(1, len(text) + 1), width, key=lambda end: font.getlength(text[:end])))

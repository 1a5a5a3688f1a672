"""Legibility that can be computed: contrast in both schemes, wide things in boxes of their own, headings in order."""

from __future__ import annotations

import itertools
import re
from importlib import resources

import pytest

CSS = (resources.files("xmodal.report") / "page.css").read_text(encoding="utf-8")


def colours(scheme: str) -> dict[str, str]:
    light, dark = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light))
    return found if scheme == "light" else found | dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", dark))


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    brighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def test_contrast_is_computed_as_wcag_does():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_reaches_wcag_aa_and_drawings_three_to_one(scheme):
    of = colours(scheme)
    for name in ("ink", "soft", "student", "right", "wrong"):
        for ground in ("paper", "panel"):
            assert contrast(of[name], of[ground]) >= 4.5, (name, ground)
    for name in ("axis", "smooth", "teacher", "line-0", "line-1", "line-2", "line-3"):
        assert contrast(of[name], of["paper"]) >= 3, name
    # every logged value is light, and its mean dark: told apart, both seen
    assert contrast(of["raw"], of["paper"]) >= 2
    assert contrast(of["smooth"], of["raw"]) >= 2


def test_every_table_and_listing_scrolls_in_its_own_box_and_is_reached_by_key(report):
    page = report()
    wide = page.all("table") + page.all("pre")
    assert len(wide) >= 7
    for element in wide:
        box = next(e for e in [element, *element.ancestors()] if "scroll" in e.classes)
        assert box.attributes["tabindex"] == "0"
        assert box.attributes["role"] == "region"
        assert box.attributes["aria-label"]
    assert re.search(r"\.scroll \{[^}]*overflow-x: auto", CSS)


def test_headings_never_skip_a_level(report):
    levels = [int(e.tag[1]) for e in report().all() if re.fullmatch(r"h\d", e.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_pictures_and_drawings_have_words_or_are_hidden_from_readers(report):
    page = report()
    for image in page.all("img"):
        assert image.attributes["alt"]
    for svg in page.all("svg"):
        assert svg.attributes.get("aria-label") or svg.attributes.get("aria-hidden") == "true"


def test_table_headers_say_what_they_head(report):
    for header in report().all("th"):
        assert header.attributes["scope"] in ("row", "col", "colgroup")


def test_page_follows_the_readers_colour_scheme_and_width(report):
    page = report()
    metas = {m.attributes.get("name"): m.attributes.get("content") for m in page.all("meta")}
    assert metas["color-scheme"] == "light dark"
    assert "width=device-width" in metas["viewport"]
    assert "@media (prefers-color-scheme: dark)" in CSS
    assert page.one("html").attributes["lang"] == "en"

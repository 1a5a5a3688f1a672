"""Plain values and the YAML that holds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from xmodal.plain import plain, read_yaml, write_yaml

TRAPS = [
    "2e-3",
    "no",
    "on",
    "~",
    "null",
    "",
    " ",
    "1:30",
    "012",
    "0x1f",
    "2024-01-01",
    "1_000",
    ".5",
    "=",
    "<<",
    "- a",
    "{a",
    "a: b",
    "#x",
    "\x85",
    "a\u2028b",
]
texts = st.sampled_from(TRAPS) | st.text(max_size=12)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=12
)


@given(values)
def test_yaml_gives_back_what_was_written(value):
    assert _same(read_yaml(write_yaml(value)), value)


@given(values)
def test_a_reader_of_yaml_1_1_takes_no_text_for_something_else(value):
    assert _same(yaml.safe_load(write_yaml(value)), value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-3", 0.002),
        ("1E5", 1e5),
        ("+.5e+1", 5.0),
        ("-3", -3),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("yes", "yes"),
        ("off", "off"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("'2e-3'", "2e-3"),
        ("", None),
        ("-.inf", float("-inf")),
    ],
)
def test_scalars_are_read_as_yaml_1_2_says(text, value):
    read = read_yaml(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a: 1\nb: [1,\n", "line 3", "expected"),
        ("a: 1\nb: 2\na: 3", "line 3", "'a' is given twice"),
        ("a:\n\tb: 1", "line 2", "tab"),
        ("a: *b", "line 1", "undefined alias"),
        ("a: !!python/object:os.system 1", "line 1", "could not determine a constructor"),
        ("a: \x00", "", "not allowed"),
    ],
)
def test_what_is_not_yaml_is_said_with_its_line(text, where, what):
    with pytest.raises(ValueError) as caught:
        read_yaml(text)
    assert where in str(caught.value)
    assert what in str(caught.value).replace("'\\t'", "tab")


def test_values_of_python_become_those_of_a_file():
    given_values = {
        "folder": Path("a/b"),
        "sizes": (1, 2),
        "rate": np.float64(0.5),
        "flag": np.bool_(True),
        "none": None,
    }
    with pytest.raises(ValueError, match=r"numpy\.bool"):
        plain(given_values)
    given_values["flag"] = True
    made = plain(given_values)
    assert made == {"folder": "a/b", "sizes": [1, 2], "rate": 0.5, "flag": True, "none": None}
    assert type(made["rate"]) is float


@pytest.mark.parametrize(
    ("value", "message"), [({1: "a"}, "key 1"), (object(), "object"), (b"a", "bytes"), ({"a": {2}}, "set")]
)
def test_what_a_file_cannot_hold_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        plain(value)


def test_a_value_that_holds_itself_is_refused():
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="deep"):
        plain(loop)


def _same(one: object, other: object) -> bool:
    """Equal, and of equal types: 1, 1.0 and true are three things."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    return one == other

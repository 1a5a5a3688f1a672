"""A header that is plain is known without tarfile; whatever is not plain, tarfile reads as before."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmodal.data import tarheader
from xmodal.data.tarheader import header_problem

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def header(name, size=3, form=tarfile.USTAR_FORMAT):
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(form)[-512:]


def judged_by_tarfile(block, *expected):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tarheader, "_plainly", lambda *given: False)
        return header_problem(block, *expected)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "name", ["000123.jpg", "birds/owl.seg.png", "ein/Käfer.txt", "./a.jpg", "a.JPG", "x" * 98 + ".y"]
)
def test_a_header_in_order_is_so_either_way(name, form):
    block = header(name, form=form)
    key, _, extension = name.removeprefix("./").partition(".")
    assert header_problem(block, key, extension.lower(), 3) == ""
    assert judged_by_tarfile(block, key, extension.lower(), 3) == ""


@given(st.integers(0, 511), st.integers(0, 255))
def test_a_changed_byte_is_judged_as_tarfile_judges_it(place, value):
    block = bytearray(header("000123.jpg", size=4711))
    block[place] = value
    expected = ("000123", "jpg", 4711)
    assert header_problem(bytes(block), *expected) == judged_by_tarfile(bytes(block), *expected)


@pytest.mark.parametrize("expected", [("000124", "jpg", 3), ("000123", "png", 3), ("000123", "jpg", 4)])
def test_another_member_is_a_problem(expected):
    assert header_problem(header("000123.jpg"), *expected)


def test_plain_headers_do_not_cost_tarfile(monkeypatch):
    monkeypatch.setattr(tarfile.TarInfo, "frombuf", None)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("000123.jpg"))
    assert header_problem(buffer.getvalue()[:512], "000123", "jpg", 0) == ""

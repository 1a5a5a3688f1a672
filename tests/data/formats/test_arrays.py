from __future__ import annotations

import contextlib
import gzip
import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xmodal.data.formats.arrays import read_gzipped_torch, read_npz
from xmodal.data.members import MemberError


class Bomb:
    """Whoever unpickles this fails the test."""

    def __reduce__(self):
        return (exec, ("raise AssertionError('unpickled')",))


def npz(compressed=True, **arrays):
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def packed(value):
    file = io.BytesIO()
    torch.save(value, file)
    return gzip.compress(file.getvalue())


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_npz_is_read_as_numpy_reads_it(dtype, order):
    array = np.asarray(np.random.default_rng(0).normal(size=(3, 5)), dtype=dtype, order=order)
    for compressed in (True, False):
        found = read_npz(npz(compressed, a=array, other=np.zeros(2)), ("a",))
        assert list(found) == ["a"]
        assert np.array_equal(found["a"], array)


def test_objects_in_an_npz_are_refused_unread():
    data = npz(a=np.array([Bomb()], dtype=object))
    with pytest.raises(MemberError, match="objects are never unpickled"):
        read_npz(data, ("a",))
    with pytest.raises(MemberError, match="floating-point"):
        read_npz(npz(a=np.arange(3)), ("a",))


def test_an_npz_that_unpacks_to_too_much_is_refused_before_it_is_unpacked():
    data = npz(a=np.zeros((2000, 1000)))
    assert len(data) < 100_000
    with pytest.raises(MemberError, match="16000128 bytes; more than 1000000 are refused"):
        read_npz(data, ("a",), limit=1_000_000)


def test_a_header_that_claims_more_than_there_is_allocates_nothing():
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**6)})
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("a.npy", file.getvalue() + b"\0" * 64)
    with pytest.raises(MemberError, match="claims shape"):
        read_npz(archive.getvalue(), ("a",))


def test_bfloat16_tensors_are_read():
    tensors = {"a": torch.randn(3, 4).bfloat16(), "b": torch.randn(2, 4)}
    found = read_gzipped_torch(packed(tensors), ("a", "b"))
    assert np.array_equal(found["a"], tensors["a"].float().numpy())
    assert np.array_equal(found["b"], tensors["b"].numpy())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (packed({"a": Bomb()}), "objects are never unpickled"),
        (gzip.compress(pickle.dumps({"a": Bomb()})), "not a file of torch.save"),
        (packed({"b": torch.zeros(2)}), "has no a, only b"),
        (packed([torch.zeros(2)]), "not a mapping"),
        (packed({"a": torch.arange(3)}), "not a tensor of floating-point"),
        (packed({"a": torch.zeros(1).expand(10**9)}), "takes more than"),
        (gzip.compress(b"\0" * 10_000_000), "unpacks to more than"),
        (b"\x1f\x8b", "cannot be unpacked"),
        (b"plain", "cannot be unpacked"),
    ],
    ids=range(9),  # the bytes hold the time, and workers of one run must agree on a test's name
)
def test_a_torch_file_that_is_not_plain_tensors_is_refused(data, message):
    with pytest.raises(MemberError, match=message):
        read_gzipped_torch(data, ("a",), limit=5_000_000)


SOUND = {read_npz: npz(a=np.ones((2, 3))), read_gzipped_torch: packed({"a": torch.ones(2, 3)})}


@pytest.mark.parametrize("read", list(SOUND))
@given(place=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.booleans())
def test_any_damage_is_a_member_error_or_goes_unseen(read, place, byte, cut):
    sound = SOUND[read]
    place %= len(sound)
    damaged = sound[:place] if cut else sound[:place] + bytes([byte]) + sound[place + 1 :]
    with contextlib.suppress(MemberError):
        read(damaged, ("a",))

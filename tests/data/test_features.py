"""Precomputed features in samples."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save

from xmodal.data.decode import decode
from xmodal.data.features import decode_features
from xmodal.data.members import MemberError, SampleError
from xmodal.data.reader import RawSample

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)
HUGE = torch.from_numpy(np.array([2**63], dtype=np.uint64))


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


MEMBERS = {
    "emb.npy": npy(ARRAY),
    "more.npz": npz(pooled=ARRAY, tokens=ARRAY.astype(np.float16)),
    "one.npz": npz(x=ARRAY),
    "npz": npz(a=np.array([True, False])),
    "t.safetensors": save({"b": torch.ones(2, dtype=torch.bfloat16), "c": torch.zeros(3)}),
    "big.npy": npy(ARRAY.astype(">f8")),
    "u.npy": npy(np.array([65535], dtype=np.uint16)),
    "f.npy": npy(np.asfortranarray(ARRAY)),
    "scalar.npy": npy(np.float32(2.5)),
    "u.safetensors": save(
        {"small": torch.tensor([255], dtype=torch.uint8), "u": torch.tensor([7], dtype=torch.uint64)}
    ),
    "eight.safetensors": save({"x": torch.ones(2).to(torch.float8_e4m3fn)}),
}


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("emb.npy", torch.from_numpy(ARRAY)),
        ("more.npz:pooled", torch.from_numpy(ARRAY)),
        ("more.npz:tokens", torch.from_numpy(ARRAY).half()),
        ("one.npz", torch.from_numpy(ARRAY)),
        ("npz", torch.tensor([True, False])),
        ("t.safetensors:b", torch.ones(2, dtype=torch.bfloat16)),
        ("big.npy", torch.from_numpy(ARRAY).double()),
        ("u.npy", torch.tensor([65535])),
        ("f.npy", torch.from_numpy(ARRAY)),
        ("scalar.npy", torch.tensor(2.5)),
        ("u.safetensors:u", torch.tensor([7])),
        ("u.safetensors:small", torch.tensor([255], dtype=torch.uint8)),
    ],
)
def test_members_come_as_tensors(place, expected):
    found = decode_features(MEMBERS, {"teacher": place})["teacher"]
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_numbers_of_eight_bits_come_as_they_are():
    found = decode_features(MEMBERS, {"teacher": "eight.safetensors"})["teacher"]
    assert found.dtype == torch.float8_e4m3fn
    assert found.float().tolist() == [1.0, 1.0]
    broken = save({"x": torch.full((2,), torch.nan).to(torch.float8_e4m3fn)})
    with pytest.raises(MemberError, match="not finite"):
        decode_features({"x.safetensors": broken}, {"teacher": "x.safetensors"})


class Evil:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def promising(shape):
    """A .npy whose header promises a shape that its bytes do not hold."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(64)


@pytest.mark.parametrize(
    ("members", "place", "reason"),
    [
        ({"txt": b"x"}, "emb.npy", "has no features 'emb.npy', only txt"),
        ({"emb.pkl": pickle.dumps(1)}, "emb.pkl", "do not end in one of"),
        ({"emb.npy": npy(np.array([Evil()], dtype=object), allow_pickle=True)}, "emb.npy", "never loaded"),
        ({"emb.npz": npz(x=np.array(["a", "b"]))}, "emb.npz", "not numbers"),
        ({"emb.npy": pickle.dumps(Evil())}, "emb.npy", "cannot be read"),
        ({"emb.npy": MEMBERS["emb.npy"][:-4]}, "emb.npy", "do not fit|cannot be read"),
        ({"emb.npy": promising((2**40,))}, "emb.npy", "do not fit"),
        ({"emb.npy": promising((2**40, 2**40))}, "emb.npy", "do not fit"),
        ({"emb.npy": npy(np.array([1.0, np.nan]))}, "emb.npy", "not finite"),
        ({"emb.npy": npy(np.array([1j]))}, "emb.npy", "not numbers"),
        ({"emb.npy": npy(np.array([2**63], dtype=np.uint64))}, "emb.npy", "beyond int64"),
        ({"u.safetensors": save({"u": HUGE})}, "u.safetensors", "beyond int64"),
        ({"emb.npz": npz(x=np.array([np.inf]))}, "emb.npz", "not finite"),
        ({"emb.npz": MEMBERS["more.npz"]}, "emb.npz", "hold 2 arrays, pooled, tokens; name one: emb.npz:NAME"),
        ({"emb.npz": MEMBERS["more.npz"]}, "emb.npz:poled", "no array 'poled', only pooled, tokens"),
        ({"emb.npz": b"PK nothing"}, "emb.npz", "cannot be read"),
        ({"e.safetensors": b"\xff" * 40}, "e.safetensors", "cannot be read"),
        ({"e.safetensors": MEMBERS["t.safetensors"][:-3]}, "e.safetensors:b", "cannot be read"),
        ({"emb.npy": b""}, "emb.npy", "cannot be read"),
    ],
)
def test_what_is_missing_broken_or_no_number_is_refused(members, place, reason):
    with pytest.raises(MemberError, match=reason):
        decode_features(members, {"teacher": place})


def test_a_compressed_bomb_is_refused_by_what_it_says_of_its_size():
    bomb = npz(x=np.zeros(2**27, dtype=np.int64)[: 2**26 + 2**10])
    assert len(bomb) < 2**20
    with pytest.raises(MemberError, match="are refused"):
        decode_features({"x.npz": bomb}, {"t": "x.npz"})


def test_features_and_labels_by_path_are_part_of_a_decoded_sample():
    raw = RawSample("k", "s.tar", {**MEMBERS, "json": b'{"label": 3, "deep": [{"y": -1}], "no": true, "big": 1e3}'})
    sample = decode(raw, fields=("label",), label="json.label", features={"teacher": "emb.npy"})
    assert (sample["label"], sample["features"]["teacher"].tolist()) == (3, ARRAY.tolist())
    assert decode(raw, fields=(), label="json.deep.0.y")["label"] == -1
    assert "label" not in decode(raw, fields=())
    for path, reason in (("json.no", "not an integer"), ("json.big", "not an integer"), ("json.x", "there is no 'x'")):
        with pytest.raises(SampleError, match=reason):
            decode(raw, fields=("label",), label=path)
    with pytest.raises(SampleError, match="has no features"):
        decode(raw, fields=(), features={"teacher": "none.npy"})

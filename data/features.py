"""Precomputed features in a sample: members ``.npy``, ``.npz`` and ``.safetensors`` as tensors, never unpickled."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xmodal.data.members import MemberError, listed

if TYPE_CHECKING:
    from torch import Tensor

FEATURE_EXTENSIONS = ("npy", "npz", "safetensors")
MAX_VALUES = 2**26
"""A member that says it holds more values is refused before memory is taken for them."""

_KINDS = "fiub"  # floating, integers, truth values: no objects, texts, dates or complex numbers


def decode_features(members: Mapping[str, bytes], wanted: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors that ``wanted`` names: name → member, ``emb.npy``, or an array in one, ``emb.npz:pooled``.

    A ``.npz`` or ``.safetensors`` with a single array needs no name of it. Shapes and dtypes are the member's own, but
    that unsigned integers of 16 bits and more come as int64. Raises :class:`MemberError` where a member is missing or
    broken, holds something else than numbers, or a number that is not finite.
    """
    return {name: _tensor(members, place) for name, place in wanted.items()}


def _tensor(members: Mapping[str, bytes], place: str) -> Tensor:
    member, _, inner = place.partition(":")
    if member not in members:
        raise MemberError(f"has no features {member!r}, only {listed(members)}")
    kind = member.rpartition(".")[2]
    if kind not in FEATURE_EXTENSIONS:
        raise MemberError(f"features {member!r} do not end in one of .{', .'.join(FEATURE_EXTENSIONS)}")
    data = members[member]
    try:
        tensor = (
            _from_safetensors(data, inner, place) if kind == "safetensors" else _from_numpy(data, kind, inner, place)
        )
    except MemberError:
        raise
    except Exception as error:  # both libraries raise many types for broken bytes
        raise MemberError(f"features {place!r} cannot be read: {error or type(error).__name__}") from error
    # of some types of 8 bits torch cannot tell
    if tensor.is_floating_point() and not bool((tensor if tensor.itemsize > 1 else tensor.float()).isfinite().all()):
        raise MemberError(f"features {place!r} hold a number that is not finite")
    return tensor


def _from_numpy(data: bytes, kind: str, inner: str, place: str) -> Tensor:
    import torch

    if kind == "npz":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            info = archive.getinfo(f"{_one_of(names, inner, place)}.npy")
            if info.file_size > 8 * MAX_VALUES:
                raise MemberError(
                    f"features {place!r} hold {info.file_size} bytes; more than {8 * MAX_VALUES} are refused"
                )
            data = archive.read(info)
    elif inner:
        raise MemberError(f"features {place!r}: a .npy holds one array, without a name")
    array = _signed(_array(data, place), place)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C", copy=False))


def _signed(array: NDArray[Any], place: str) -> NDArray[Any]:
    """Large unsigned integers as int64, for few of torch's operations take them."""
    if array.dtype.kind != "u" or array.dtype.itemsize == 1:
        return array
    if array.size and array.max() > np.iinfo(np.int64).max:
        raise MemberError(f"features {place!r} hold a number beyond int64")
    return array.astype(np.int64)


def _array(data: bytes, place: str) -> NDArray[Any]:
    file = io.BytesIO(data)
    shape, _, dtype = npy_header(file, f"features {place!r}")
    size = int(np.prod(shape, dtype=np.float64)) if shape else 1
    if dtype.kind not in _KINDS or dtype.itemsize > 8:
        raise MemberError(f"features {place!r} are {dtype}, not numbers; pickled objects are never loaded")
    if size > MAX_VALUES or size * dtype.itemsize > len(data):
        raise MemberError(f"features {place!r} of shape {shape} do not fit into {len(data)} bytes")
    file.seek(0)
    array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


def npy_header(file: io.BytesIO, what: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether the first axis is the fastest, and dtype of a ``.npy``; the file is left where its values begin.

    Raises :class:`MemberError` for a version that plain arrays never have, ValueError for what is no ``.npy``.
    """
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:  # 3.0 is for names of structured types
        raise MemberError(f"{what}: a .npy of version {version} is not read")
    return readers[version](file)


def _from_safetensors(data: bytes, inner: str, place: str) -> Tensor:
    import torch
    from safetensors.torch import load

    tensors = load(data)
    tensor = tensors[_one_of(list(tensors), inner, place)]
    if tensor.is_complex():
        raise MemberError(f"features {place!r} are complex, not real numbers")
    if tensor.dtype in (torch.uint16, torch.uint32, torch.uint64):
        return torch.from_numpy(_signed(tensor.numpy(), place))
    return tensor


def _one_of(names: list[str], inner: str, place: str) -> str:
    if inner and inner not in names:
        raise MemberError(f"features {place!r}: there is no array {inner!r}, only {listed(names)}")
    if not inner and len(names) != 1:
        raise MemberError(f"features {place!r} hold {len(names)} arrays, {listed(names)}; name one: {place}:NAME")
    return inner or names[0]

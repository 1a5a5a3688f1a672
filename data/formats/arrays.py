"""Arrays from untrusted bytes: numpy's ``.npz`` and gzipped torch files. Nothing is unpickled, and sizes are bounded.

numpy would allocate what a header claims before it has read it, and a megabyte of gzip can stand for a gigabyte. So all
is measured before it is unpacked.
"""

from __future__ import annotations

import gzip
import io
import math
import pickle
import zipfile
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from xmodal.data.features import npy_header
from xmodal.data.members import MemberError, listed
from xmodal.errors import first_line

MAX_BYTES = 2**26
"""Arrays of one member that take more, unpacked, are refused: 64 MiB. DataCompDR's take 0.2 MB."""

Array = npt.NDArray[Any]


def read_npz(data: bytes, names: tuple[str, ...], limit: int = MAX_BYTES) -> dict[str, Array]:
    """The arrays called ``names`` of an ``.npz`` file. Raises :class:`MemberError` where one is missing or unsound."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            _need(names, files, ".npz")
            total = sum(files[name].file_size for name in names)
            if total > limit:
                raise MemberError(f".npz unpacks to {total} bytes; more than {limit} are refused")
            return {name: _npy(name, _unpack(archive, files[name])) for name in names}
    except MemberError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, NotImplementedError) as error:
        raise MemberError(f".npz cannot be read: {error}") from error


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with archive.open(info) as file:
        content = file.read(info.file_size + 1)  # what the archive claims may be less than what comes out
    if len(content) != info.file_size:
        raise MemberError(f".npz: {info.filename} is not as long as the archive says")
    return content


def _npy(name: str, content: bytes) -> Array:
    file = io.BytesIO(content)
    shape, fortran, dtype = npy_header(file, f".npz: {name}")
    if dtype.hasobject or dtype.kind != "f":
        raise MemberError(f".npz: {name} holds {dtype}, not floating-point numbers; objects are never unpickled")
    count = math.prod(shape)
    if file.tell() + count * dtype.itemsize != len(content):
        raise MemberError(f".npz: {name} claims shape {shape}, which is not as long as its data")
    array = np.frombuffer(content, dtype, count, file.tell())
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def read_gzipped_torch(data: bytes, names: tuple[str, ...], limit: int = MAX_BYTES) -> dict[str, Array]:
    """The tensors called ``names`` of a mapping that ``torch.save`` wrote and gzip packed, as float32 arrays.

    Read by ``torch.load(weights_only=True)``. Raises :class:`MemberError` where one is missing or unsound.
    """
    import torch

    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            content = file.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise MemberError(f".pth.gz cannot be unpacked: {error}") from error
    if len(content) > limit:
        raise MemberError(f".pth.gz unpacks to more than {limit} bytes, which is refused")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            total = sum(info.file_size for info in archive.infolist())
        if total > limit:
            raise MemberError(f".pth.gz unpacks to {total} bytes; more than {limit} are refused")
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except MemberError:
        raise
    except zipfile.BadZipFile as error:  # the format before torch 1.6 is a bare pickle
        raise MemberError(".pth.gz is not a file of torch.save (1.6 or newer)") from error
    except pickle.UnpicklingError as error:
        raise MemberError(".pth.gz holds more than tensors; objects are never unpickled") from error
    except (RuntimeError, ValueError, TypeError, KeyError, EOFError, OSError, AttributeError) as error:
        raise MemberError(f".pth.gz cannot be read: {first_line(error)}") from error
    if not isinstance(found, dict):
        raise MemberError(f".pth.gz holds {type(found).__name__}, not a mapping of tensors")
    _need(names, found, ".pth.gz")
    return {name: _tensor(name, found[name], limit) for name in names}


def _tensor(name: str, value: Any, limit: int) -> Array:
    import torch

    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.layout != torch.strided:
        raise MemberError(f".pth.gz: {name} is {type(value).__name__}, not a tensor of floating-point numbers")
    if 4 * value.numel() > limit:  # a view can be larger than what is stored
        raise MemberError(f".pth.gz: {name} of shape {tuple(value.shape)} takes more than {limit} bytes")
    array: Array = value.detach().float().contiguous().numpy()  # numpy has no bfloat16
    return array


def _need(names: tuple[str, ...], found: Any, what: str) -> None:
    missing = [name for name in names if name not in found]
    if missing:
        raise MemberError(f"{what} has no {', '.join(missing)}, only {listed([str(name) for name in found])}")

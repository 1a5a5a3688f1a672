"""Bytes from any address, from an offset on: HTTP by ranges through the standard library, the rest through fsspec."""

from __future__ import annotations

import contextlib
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from time import time
from typing import Any, NoReturn

from xmodal import __version__
from xmodal.errors import TransferError
from xmodal.transfer.addresses import is_http, protocol_of
from xmodal.transfer.patience import SILENCE, InterruptedTransferError, RangeRefusedError
from xmodal.transfer.watched import Watched

PASSING = (408, 425, 429, 500, 502, 503, 504)
PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "hf": "huggingface_hub",
}
_IN_EXTRA = ("s3fs", "gcsfs")  # what pip install 'xmodal[remote]' brings
_NO_LOGIN = (
    "NoCredentialsError",  # botocore's
    "PartialCredentialsError",
    "DefaultCredentialsError",  # google.auth's
    "RefreshError",
    "OfflineModeIsEnabled",  # huggingface_hub's
)
_BLOCK = 8 << 20  # bytes a request: some file systems take 50 MB, which a slow network does not bring in time


class AbsentError(TransferError):
    """There is nothing at an address."""


class ForbiddenError(TransferError):
    """An address may not be read or written by this user; a store that hides what it has says so of anything."""


@dataclass(frozen=True)
class Stream:
    """``start`` is where the bytes begin: the offset asked for, or 0 where the server does not give ranges.

    ``total`` is the whole file's size as the server says it, which may be wrong.
    """

    start: int
    total: int | None
    read: Callable[[int], bytes]


@contextlib.contextmanager
def open_stream(address: str, offset: int, timeout: float) -> Iterator[Stream]:
    """Raises :class:`TransferError` where trying again is no use, :class:`InterruptedTransferError` where it may be."""
    with _open_http(address, offset, timeout) if is_http(address) else _open_fsspec(address, offset, timeout) as stream:
        yield stream


@contextlib.contextmanager
def _open_http(address: str, offset: int, timeout: float) -> Iterator[Stream]:
    headers = {"User-Agent": f"xmodal/{__version__}", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    request = urllib.request.Request(address, headers=headers)
    for name, value in _configured_headers(address).items():
        request.add_unredirected_header(name, value)  # a token is not for whoever the server points to
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            _raise_for_status(error, address, offset)
    except (OSError, HTTPException) as error:
        _raise_for_connection(error, address)
    except ValueError as error:  # an address that is none
        raise TransferError(f"{address} cannot be opened: {error}.") from error

    def read(size: int) -> bytes:
        try:
            return bytes(response.read1(size))  # what has come, so that a stall loses nothing
        except (OSError, HTTPException) as error:
            raise InterruptedTransferError(_reason(error)) from error

    with response:
        start, total = _extent(response.status, response.headers)
        if start not in (0, offset):
            raise RangeRefusedError(f"the server gave bytes from {start} when asked for those from {offset}")
        yield Stream(start, total, read)


def _configured_headers(address: str) -> dict[str, str]:
    """The headers that fsspec's own configuration gives to its file system for HTTP, such as Authorization."""
    from fsspec.config import conf

    options = {**conf.get("http", {}), **conf.get(protocol_of(address), {})}
    headers = {**options.get("headers", {}), **options.get("client_kwargs", {}).get("headers", {})}
    return {str(name): str(value) for name, value in headers.items()}


def _extent(status: int, headers: Message[str, str]) -> tuple[int, int | None]:
    if status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
        if not match:
            raise InterruptedTransferError("the server gave a part of the file without saying which")
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _raise_for_status(error: urllib.error.HTTPError, address: str, offset: int) -> NoReturn:
    said = f"{error.code} {error.reason}"
    if error.code == 416 and offset:
        raise RangeRefusedError(f"the server says that the file has no more than {offset} bytes") from error
    if error.code in PASSING:
        raise InterruptedTransferError(f"the server answered {said}", _retry_after(error.headers)) from error
    if error.code in (404, 410):
        raise AbsentError(f"There is nothing at {address} ({said}). Check the address.") from error
    if error.code in (401, 403):
        raise ForbiddenError(
            f"{address} may not be read ({said}). Check the address, and that it is public."
        ) from error
    raise TransferError(f"{address} cannot be read: the server answered {said}.") from error


def _retry_after(headers: Message[str, str]) -> float:
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except (TypeError, ValueError):
        return 0.0


def _raise_for_connection(error: Exception, address: str) -> NoReturn:
    cause = _cause(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        raise TransferError(
            f"{address} cannot be trusted: {cause.verify_message}. Check the address and this machine's clock."
        ) from error
    raise InterruptedTransferError(_reason(error)) from error


def _cause(error: Exception) -> object:
    return error.reason if isinstance(error, urllib.error.URLError) else error


def _reason(error: Exception) -> str:
    cause = _cause(error)
    if isinstance(cause, TimeoutError):
        return SILENCE
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause) or type(cause).__name__


@contextlib.contextmanager
def _open_fsspec(address: str, offset: int, timeout: float) -> Iterator[Stream]:
    watched = Watched(timeout)
    file_system, path = file_system_of(address)
    with contextlib.ExitStack() as stack:
        stack.callback(watched.close)
        with accessing(address):
            total = watched(file_system.info, path).get("size")
            file = stack.enter_context(watched(lambda: file_system.open(path, "rb", block_size=_BLOCK)))
        if offset:
            try:
                file.seek(offset)
            except (OSError, ValueError, NotImplementedError) as error:
                raise RangeRefusedError(f"{file_system.protocol} cannot start at byte {offset}: {error}") from error

        def read(size: int) -> bytes:
            with accessing(address):
                return bytes(watched(file.read, size))

        yield Stream(offset, total, read)


def file_system_of(address: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and the path in it. A :class:`TransferError` names a package it lacks."""
    import fsspec  # not at the top: who reads local shards has no need of it

    try:
        file_system, path = fsspec.core.url_to_fs(address)  # a process that was forked gets one of its own
    except (ImportError, ValueError) as error:
        package = PACKAGES.get(protocol_of(address))
        extra = ", or pip install 'xmodal[remote]'" if package in _IN_EXTRA else ""
        mend = f" Install it: pip install {package}{extra}" if package else ""
        raise TransferError(f"{address} cannot be opened: {error}.{mend}") from error
    file_system.invalidate_cache()  # listings that are older than this call
    return file_system, path


@contextlib.contextmanager
def accessing(address: str, done: str = "read") -> Iterator[None]:
    """Sorts what a file system raises into what is final (:class:`TransferError`) and what may pass."""
    try:
        yield
    except (TransferError, InterruptedTransferError):
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AbsentError(f"There is nothing at {address}. Check the address.") from error
    except IsADirectoryError as error:
        raise TransferError(f"{address} is a folder; expected a file.") from error
    except (PermissionError, NotImplementedError) as error:
        raise ForbiddenError(f"{address} may not be {done}: {error}") from error
    except Exception as error:  # each file system has its own errors for a network that fails
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403) or type(error).__name__ in _NO_LOGIN:
            raise ForbiddenError(f"{address} may not be {done}: {error}") from error
        raise InterruptedTransferError(_reason(error)) from error

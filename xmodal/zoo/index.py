"""The index of a zoo: what each student is, what it was measured to do, and its files with sizes and hashes."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from xmodal.errors import ZooError, hint
from xmodal.zoo.files import clashing, unsafe_path

FORMAT = 1
"""Raised when an older xmodal could no longer read an index rightly; new optional keys do not raise it."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,94}[A-Za-z0-9]|[A-Za-z0-9]")
ADDRESS = re.compile(r"[A-Za-z0-9._~@:/+-]+")  # host, port, revision and folders; no query, nothing that is escaped
REMOTE_BASES = ("https://", "http://", "hf://", "s3://", "gs://", "gcs://", "az://", "abfs://")


class Part(BaseModel):
    """Frozen, and open to keys that this version does not know."""

    # Keys of a later xmodal are kept, so that publishing with an older one does not lose them.
    model_config = ConfigDict(extra="allow", frozen=True)


class File(Part):
    """What a file must be to be used."""

    size: int = Field(ge=0, description="bytes")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Entry(Part):
    """One student. ``files`` lie under ``base``, which is relative to the index or, elsewhere, a full address."""

    name: str
    description: str = ""
    modality: str = Field(description="what the student sees: image, text, or image+text")
    library: str = Field(description="the library that loads the files without xmodal: timm, sentence-transformers, …")
    load: str = Field("", description="one line of Python that does so")
    space: dict[str, Any] | None = Field(None, description="whose embedding space the student's lies in, and its width")
    teacher: str | None = None
    data: str | None = Field(None, description="the shards it was trained on, as its recipe names them")
    licence: str | None = Field(None, description="of the weights")
    recipe: str | None = None
    metrics: dict[str, dict[str, float | None]] = Field(
        {}, description="split → metric → value, of the weights before rounding"
    )
    baseline: dict[str, Any] | None = Field(
        None, description="the same figures without the teacher, and the recipe they come from"
    )
    parameters: int | None = None
    weights: str = Field("float32", description="type in which the weights are stored; they are loaded as float32")
    xmodal_version: str | None = None
    published: str | None = Field(None, description="UTC date")
    base: str
    size: int = Field(ge=0, description="bytes, of all files")
    files: dict[str, File] = Field(min_length=1)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is not a name: up to 96 letters, digits, '.', '_' and '-', the first and last not a mark"
            )
        return name

    @field_validator("base")
    @classmethod
    def _safe_base(cls, base: str) -> str:
        if base.startswith(REMOTE_BASES):
            address = base.split("://", 1)[1]
            reason = None if ADDRESS.fullmatch(address) and ".." not in address.split("/") else "it is no plain address"
        else:
            reason = unsafe_path(base.rstrip("/")) if base else None
        if reason:
            raise ValueError(f"base {base!r} is refused: {reason.replace('the entry', 'the index')}")
        return base

    @field_validator("files")
    @classmethod
    def _safe_files(cls, files: dict[str, File]) -> dict[str, File]:
        for path in files:
            if reason := unsafe_path(path):
                raise ValueError(f"file {path!r} is refused: {reason}")
        if clash := clashing(files):
            raise ValueError(f"file {clash!r} would overwrite another file of the entry")
        return files

    @model_validator(mode="after")
    def _sizes_add_up(self) -> Entry:
        total = sum(file.size for file in self.files.values())
        if self.size != total:
            raise ValueError(f"size is {self.size}, but its files have {total} bytes")
        return self

    @property
    def digest(self) -> str:
        """64 hex digits that change with any file's name or contents."""
        listed = "\n".join(f"{file.sha256} {path}" for path, file in sorted(self.files.items()))
        return hashlib.sha256(listed.encode()).hexdigest()


class Index(Part):
    """A zoo's students, by unique names."""

    format: int = FORMAT
    entries: list[Entry] = []

    @model_validator(mode="after")
    def _unique_names(self) -> Index:
        lowered = [entry.name.lower() for entry in self.entries]
        twice = sorted({name for name in lowered if lowered.count(name) > 1})
        if twice:
            raise ValueError(f"names that two entries share: {', '.join(twice)}")
        return self

    def names(self) -> list[str]:
        return [entry.name for entry in self.entries]

    def get(self, name: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.name == name), None)

    def find(self, name: str, source: str) -> Entry:
        """The entry, or a :class:`ZooError` with the names that look most like ``name``."""
        entry = self.get(name)
        if entry is None:
            known = hint(name, self.names()) if self.entries else "It has no entries yet."
            raise ZooError(f"{name!r} is not in the zoo at {source}. {known}")
        return entry

    def with_entry(self, entry: Entry) -> Index:
        """A copy with ``entry`` in the place of the one of its name, or at the end."""
        if self.get(entry.name) is None:
            return self.model_copy(update={"entries": [*self.entries, entry]})
        return self.model_copy(update={"entries": [entry if old.name == entry.name else old for old in self.entries]})

    def to_json(self) -> bytes:
        data = self.model_dump(mode="json", exclude_unset=False)
        return (json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def parse_index(data: bytes, source: str) -> Index:
    """The index in ``data``; every mistake at once, as a :class:`ZooError` that names ``source``."""
    try:
        raw = json.loads(data)
    except ValueError as error:
        raise ZooError(f"{source} is not a zoo index: it is not JSON ({error}).") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("format"), int) or isinstance(raw["format"], bool):
        raise ZooError(f'{source} is not a zoo index: expected a JSON object with "format": {FORMAT} and "entries".')
    if raw["format"] > FORMAT:
        raise ZooError(
            f"{source} has format {raw['format']}; this xmodal reads formats up to {FORMAT}."
            " Update it: pip install -U xmodal"
        )
    try:
        return Index.model_validate(raw)
    except ValidationError as error:
        raise ZooError("\n".join([f"{source} is refused; nothing was downloaded.", *_mistakes(error, raw)])) from error


def _mistakes(error: ValidationError, raw: dict[str, Any]) -> list[str]:
    lines = []
    for mistake in error.errors():
        where = [str(part) for part in mistake["loc"]]
        if len(where) > 1 and where[0] == "entries" and isinstance(raw.get("entries"), list):
            entry = raw["entries"][int(where[1])]
            if isinstance(entry, dict) and isinstance(entry.get("name"), str):
                where[1] = entry["name"]
        lines.append(f"  {'.'.join(where) or 'index'}  {mistake['msg'].removeprefix('Value error, ')}")
    return lines

"""Where a teacher comes from, told without loading it: its options, and hashes of the files that they name."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xmodal.data.cache.contract import plain

logger = logging.getLogger(__name__)


def full_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Name and options of a teacher, what was left to its defaults written out, without ``cached``."""
    from xmodal.adapters import TEACHERS

    options = {name: value for name, value in spec.items() if name != "cached"}
    parameters = inspect.signature(TEACHERS[str(spec["name"])]).parameters.values()
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    defaults = {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.default is not inspect.Parameter.empty and parameter.kind not in kinds
    }
    made: dict[str, Any] = plain({**defaults, **options})
    return made


def origin_of(spec: Mapping[str, Any]) -> dict[str, str]:
    """Option → what pins its content as it is on this machine, for options that name files, packages or hub models.

    A model that is not here has no entry. Nothing is downloaded. An ensemble's are those of its teachers, by number.
    """
    own = {
        option: pin
        for option, value in spec.items()
        if option not in ("name", "cached")
        and isinstance(value, str)
        and (pin := _pin(value, spec.get("revision"))) is not None
    }
    for number, member in enumerate(spec.get("teachers") or () if spec.get("name") == "ensemble" else ()):
        own |= {f"teachers.{number}.{option}": pin for option, pin in origin_of(member).items()}
    return own


def same_origin(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two machines have the same files, as far as both can tell by the same means."""
    for option in set(one) & set(other):
        mine, theirs = one[option], other[option]
        if mine != theirs and mine.partition(":")[0] == theirs.partition(":")[0]:
            return False
    return True


def _pin(value: str, revision: Any) -> str | None:
    from xmodal.adapters.hub import _hash_weights
    from xmodal.adapters.packages import PACKAGES, file_sha256

    path = Path(value.removeprefix("local-dir:")).expanduser()
    if path.is_file():
        return f"file:{file_sha256(path)}"
    if path.is_dir():
        return f"folder:{_hash_weights(path)}"
    package = PACKAGES.get(value)
    if package is not None and revision is None:
        return f"package:{'-'.join(package.sha256.values())}"
    return _commit(value, revision) if value.count("/") == 1 and not value.startswith((".", "~", "/")) else None


def _commit(model: str, revision: Any) -> str | None:
    """The commit of a hub model in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    name = model.removeprefix("hf-hub:").removeprefix("hf_hub:")
    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        return None
    return f"hub:{Path(found).parent.name}" if isinstance(found, str) else None

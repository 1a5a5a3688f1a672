"""Publishing to a repository on the Hugging Face Hub: files and index are one commit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from xmodal.errors import ZooError
from xmodal.transfer.patience import USUAL, InterruptedTransferError, keep_trying
from xmodal.zoo.index import Entry, Index, parse_index
from xmodal.zoo.location import Location
from xmodal.zoo.targets import Placed, listed_files, refuse_taken


def place_on_hub(location: Location, staged: Path, entry: Entry, overwrite: bool) -> Placed:
    """The commit names its parent, so that an entry which somebody else commits meanwhile is not lost."""
    try:
        from huggingface_hub import HfApi, HfFileSystem
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise ZooError(
            f"{location.folder} cannot be written without huggingface_hub: pip install huggingface_hub"
        ) from error

    try:
        place = HfFileSystem().resolve_path(location.folder)
    except (FileNotFoundError, ValueError, NotImplementedError) as error:
        name = re.match(r"hf://(?:(?:datasets|spaces|models)/)?([^/@]+/[^/@]+)?", location.folder)
        raise ZooError(
            f"There is no repository at {location.folder}, or you may not see it ({_first_line(error)}).\n"
            f"Make it with: hf repos create {(name and name[1]) or 'USER/NAME'}   and log in with: hf auth login"
        ) from error
    except OSError as error:
        raise ZooError(f"{location.folder} cannot be reached: {_first_line(error)}") from error
    if not hasattr(place, "repo_id"):  # hf://buckets/…: a store like any other
        from xmodal.zoo.remote import place_remotely

        return place_remotely(location, staged, entry, overwrite)
    api = HfApi()

    def once() -> Placed:
        try:
            return _commit(api, place, location, staged, entry, overwrite)
        except HfHubHTTPError as error:
            status = getattr(error.response, "status_code", None)
            if status in (401, 403):
                mend = "Log in with a token that may: hf auth login"
                raise ZooError(f"{location.folder} may not be written ({status}). {mend}") from error
            if status in (409, 412):  # somebody else committed in between
                raise InterruptedTransferError(_first_line(error)) from error
            raise ZooError(f"{location.folder} could not be written: {_first_line(error)}") from error
        except OSError as error:  # huggingface_hub tries connections again by itself
            raise ZooError(f"{location.folder} could not be written: {_first_line(error)}") from error

    return keep_trying(once, USUAL, f"{location.folder} could not be written")


def _commit(api: Any, place: Any, location: Location, staged: Path, entry: Entry, overwrite: bool) -> Placed:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    repository = {"repo_id": place.repo_id, "repo_type": place.repo_type}
    parent = api.repo_info(**repository, revision=place.revision).sha
    folder = f"{place.path_in_repo}/" if place.path_in_repo else ""
    index_path = f"{folder}{location.index_name}"
    index = _read_index(api, repository, parent, index_path, location)
    old = refuse_taken(index, entry, overwrite, location.index)
    new = index.with_entry(entry)
    operations: list[Any] = [
        CommitOperationAdd(f"{folder}{entry.base}{path}", str(staged / path)) for path in entry.files
    ]
    operations += [CommitOperationDelete(f"{folder}{path}") for path in sorted(listed_files(index) - listed_files(new))]
    operations.append(CommitOperationAdd(index_path, new.to_json()))
    api.create_commit(
        **repository,
        operations=operations,
        commit_message=f"{'Replace' if old else 'Add'} {entry.name}",
        revision=place.revision,
        parent_commit=parent,
    )
    return entry, old is not None, len(new.entries)


def _read_index(api: Any, repository: dict[str, str], parent: str, path: str, location: Location) -> Index:
    if not api.file_exists(repository["repo_id"], path, repo_type=repository["repo_type"], revision=parent):
        return Index()
    local = api.hf_hub_download(repository["repo_id"], path, repo_type=repository["repo_type"], revision=parent)
    return parse_index(Path(local).read_bytes(), location.index)


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__

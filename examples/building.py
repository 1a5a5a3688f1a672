"""What the scripts that build shards share: packages of npm and Debian, and splits written as shards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from xmodal.data.hashing import file_sha256
from xmodal.data.manifest import Manifest, write_manifest
from xmodal.data.writer import ShardWriter


def npm_package(package: str, sha256: str, given: Path | None, temporary: Path) -> Path:
    """The .tgz of ``name@version``, checked: from the folder ``given``, else from npm into ``temporary``."""
    folder = given or temporary
    path = folder / f"{package.lstrip('@').replace('/', '-').replace('@', '-')}.tgz"  # what npm pack calls it
    if given is None:
        run(["npm", "pack", package, "--silent"], folder, f"have npm, or fetch {path.name} and say --packages FOLDER")
    if not path.exists():
        raise SystemExit(f"{path} is missing. Fetch it: cd {folder} && npm pack {package}")
    if file_sha256(path) != sha256:
        raise SystemExit(f"{path} is not the published {package} (its SHA-256 is another). Fetch it again.")
    return path


def read_tgz(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Files of an npm package whose names, below its folder ``package``, are wanted."""
    with tarfile.open(path, "r|gz") as tar:
        for member in tar:
            name = member.name.partition("/")[2]
            if member.isfile() and wanted(name) and (file := tar.extractfile(member)) is not None:
                yield name, file.read()


def debian_package(name: str, inside: str, given: Path | None, temporary: Path) -> tuple[Path, str]:
    """The folder ``inside`` a Debian package, unpacked, and the package's version.

    ``given`` is a folder with the .deb, or with what was in it; without it apt fetches the package. Debian's releases
    differ in versions, so none is insisted upon.
    """
    if given is not None and (given / inside).is_dir():
        return given / inside, "version not known"
    if given is None:
        mend = f"run apt-get update, or take {name} from packages.debian.org and say --packages FOLDER"
        run(["apt-get", "download", name], temporary, mend)
    found = sorted((given or temporary).glob(f"{name}_*.deb"))
    if len(found) != 1:
        what = f"{len(found)} versions of {name}: leave one" if found else f"neither {name}_*.deb nor {inside}"
        raise SystemExit(f"{given or temporary} holds {what}. To fetch it: apt-get download {name}")
    unpacked = temporary / name
    mend = f"have dpkg, or unpack the .deb (ar x, tar xf data.tar.*) and say --packages FOLDER, with {inside} in it"
    run(["dpkg", "-x", str(found[0].absolute()), str(unpacked)], temporary, mend)
    version = unquote(found[0].name.split("_")[1])
    print(f"{name} {version}")
    return unpacked / inside, version


def run(command: list[str], folder: Path, mend: str) -> None:
    if shutil.which(command[0]) is None:
        raise SystemExit(f"{command[0]} is not on this machine: {mend}.")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}\nMend it: {mend}.")


Sample = tuple[str, Mapping[str, bytes]]


def write_splits(
    out: Path, splits: Mapping[str, tuple[int, Iterable[Sample]]], *, description: str, licence: str
) -> None:
    """Write ``split → (samples a shard, samples)`` into ``out``, in place of the shards there, and print a table."""
    out.mkdir(parents=True, exist_ok=True)
    for old in (*out.glob("*.tar"), *out.glob("*.index.json"), *out.glob("manifest.json")):
        old.unlink()
    entries = []
    for split, (shard_size, samples) in splits.items():
        with ShardWriter(out, pattern=f"{split}-{{:06d}}.tar", shard_size=shard_size) as writer:
            for key, members in samples:
                writer.add(key, members)
        entries += writer.entries
    write_manifest(Manifest(description=description, licence=licence, shards=tuple(entries)), out)
    for entry in entries:
        print(f"{entry.name:24} {entry.samples:6} samples {entry.size / 1e6:7.2f} MB")


def to_json(about: Mapping[str, Any]) -> bytes:
    return json.dumps(about, ensure_ascii=False, separators=(",", ":")).encode()

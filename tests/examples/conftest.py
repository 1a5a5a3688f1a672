"""Scripts of examples/ as modules, and tiny packages like those they take."""

from __future__ import annotations

import importlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def load(monkeypatch):
    """Import a script of examples/ by name, as it imports its neighbours; forgotten afterwards."""
    monkeypatch.syspath_prepend(EXAMPLES)
    before = set(sys.modules)
    yield importlib.import_module
    for path in EXAMPLES.glob("*.py"):
        if path.stem not in before:
            sys.modules.pop(path.stem, None)


@pytest.fixture
def run_main(monkeypatch):
    """Run a loaded script as its command line would."""

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", ["script", *map(str, arguments)])
        script.main()

    return run


@pytest.fixture
def run_script():
    """Run a script in a process of its own; its output, once it ended well."""

    def run(name, *arguments):
        environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-B", EXAMPLES / name, *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def debian_folder(tmp_path):
    """What ``--packages`` takes, of files below ``root``: a .deb where dpkg can make one, otherwise the files."""

    def make(root, name, version="1:3.0-37"):
        if shutil.which("dpkg-deb") is None or shutil.which("dpkg") is None:
            return root
        folder = tmp_path / "packages"
        folder.mkdir(exist_ok=True)
        (root / "DEBIAN").mkdir(exist_ok=True)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: me <me@x>\nDescription: x\n"
        (root / "DEBIAN" / "control").write_text(control)
        deb = folder / f"{name}_{version.replace(':', '%3a')}_all.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "--build", root, deb], check=True, capture_output=True)
        return folder

    return make


@pytest.fixture
def npm_tgz():
    """Write a .tgz as npm packs it: every file in a folder ``package``."""

    def write(path, files):
        with tarfile.open(path, "w:gz") as tar:
            for name, data in files.items():
                member = tarfile.TarInfo(f"package/{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))

    return write

"""What the doctor finds is there, and what it mends is broken."""

from __future__ import annotations

import os
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest

from xmodal import doctor
from xmodal.adapters.packages import Package
from xmodal.doctor import examine
from xmodal.errors import DataError


def found(findings, subject):
    return next(finding for finding in findings if finding.subject == subject)


def test_this_machine_is_well():
    findings = list(examine())
    assert [finding for finding in findings if finding.state == "problem"] == []
    libraries = found(findings, "libraries").detail
    assert f"timm {metadata.version('timm')}" in libraries
    assert str(os.cpu_count()) in found(findings, "python").detail


def test_missing_and_old_packages_are_named_with_the_command(monkeypatch):
    versions = {"xmodal": "1", "torch": "2.5.1+cpu", "timm": "1.0.31"}

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    wanted = ["torch>=2.6", "timm>=1.0.15", "einops>=0.8", "pytest>=8.2; extra == 'dev'"]
    monkeypatch.setattr(metadata, "requires", lambda _: wanted)
    monkeypatch.setattr(metadata, "version", version)
    findings = [finding for finding in doctor._packages() if finding.state != "ok"]
    assert [(finding.subject, finding.state) for finding in findings] == [("torch", "problem"), ("einops", "problem")]
    assert findings[0].detail == "2.5.1+cpu is older than 2.6"
    assert findings[0].mend == "pip install -U 'torch>=2.6'"
    assert findings[1].mend == "pip install 'einops>=0.8'"


@pytest.mark.parametrize(
    ("newer", "older"), [("2.14.1+cu130", "2.6"), ("2.10", "2.9.9"), ("0.21.0rc1", "0.20"), ("2026.4.0", "2024.2")]
)
def test_versions_are_compared_as_numbers(newer, older):
    assert doctor._numbers(newer) > doctor._numbers(older)


def test_a_library_that_does_not_import_is_a_problem(monkeypatch, tmp_path):
    (tmp_path / "torchaudio.py").write_text("raise OSError('libtorchaudio.so: undefined symbol\\nmore')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "torchaudio", raising=False)
    finding = found(list(doctor._imports()), "torchaudio")
    assert finding.state == "problem"
    assert finding.detail == "does not import: libtorchaudio.so: undefined symbol"
    assert "torch torchvision torchaudio" in finding.mend


def test_weights_that_are_not_installed_are_a_note_with_the_command(monkeypatch):
    package = Package("some-weights", "a_module_that_is_not_there", "model", {}, "MIT")
    monkeypatch.setattr("xmodal.adapters.packages.PACKAGES", {"a": package, "b": package})
    findings = list(doctor._weights())
    assert [(finding.subject, finding.state, finding.mend) for finding in findings] == [
        ("some-weights", "note", "pip install some-weights")
    ]


def test_a_cache_that_cannot_be_written_is_a_problem(monkeypatch, tmp_path):
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    finding = doctor._folder("zoo cache", tmp_path / "deep" / "cache", "XMODAL_CACHE", "")
    assert (finding.state, finding.mend) == ("problem", "set XMODAL_CACHE to another folder")
    assert not (tmp_path / "deep").exists()


def test_little_space_is_a_note(monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**6))
    assert doctor._folder("zoo cache", tmp_path, "XMODAL_CACHE", "").state == "note"
    shared = [finding for finding in doctor._limits() if finding.subject == "shared memory"]
    assert all("shm-size" in finding.mend for finding in shared)
    assert bool(shared) == Path("/dev/shm").is_dir()


def test_a_recipe_s_mistakes_are_one_problem():
    findings = list(doctor._recipe("emoji-text-to-image", ["train.learnig_rate=1"]))
    assert [(finding.subject, finding.state) for finding in findings] == [("recipe", "problem")]
    assert "train.learning_rate" in findings[0].detail


def test_a_sound_recipe_is_tried_on_one_batch(monkeypatch):
    tried = []
    monkeypatch.setattr(
        "xmodal.distillation.dry_run", lambda recipe, overrides, console: tried.append((recipe, overrides))
    )
    findings = list(doctor._recipe("emoji-text-to-image", ["train.seed=1"]))
    assert [(finding.subject, finding.state) for finding in findings] == [("recipe", "ok"), ("dry run", "ok")]
    assert tried == [("emoji-text-to-image", ["train.seed=1"])]

    def fail(*_: object) -> None:
        raise DataError("no picture decodes")

    monkeypatch.setattr("xmodal.distillation.dry_run", fail)
    assert list(doctor._recipe("emoji-text-to-image", []))[-1].detail == "no picture decodes"

"""From a run's folder to an entry that others can download, and nothing lost on the way."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from xmodal.errors import ZooError
from xmodal.zoo import Patience, download, list_entries, publish, render_entry, render_list, show


def quiet(_: str) -> None:
    pass


def read_index(folder: Path) -> dict:
    return json.loads((folder / "index.json").read_text(encoding="utf-8"))


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_an_entry_says_what_the_run_was_and_measured(run, tmp_path):
    publish(run, tmp_path / "zoo", say=quiet)
    (entry,) = read_index(tmp_path / "zoo")["entries"]
    summary = json.loads((run / "summary.json").read_text())
    assert entry["name"] == entry["recipe"] == "tiny-text-to-image"
    assert entry["description"] == summary["description"]
    assert entry["modality"] == "image"
    assert entry["library"] == "timm"
    assert entry["space"] == {
        "teacher": {"name": "sentence", "model": "all-MiniLM-L6-v2"},
        "tap": "text.embedding",
        "dim": 16,
    }
    assert entry["teacher"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert entry["data"] == "package://emoji/train-*.tar"
    assert entry["licence"] == "CC-BY-4.0"
    assert entry["parameters"] == 12345
    assert entry["metrics"]["unseen"] == {"text_to_image_recall@10": 0.625, "odd": None}  # JSON has no NaN
    assert entry["metrics"]["seen"] == summary["metrics"]["seen"]
    assert entry["baseline"] == summary["baseline"]
    folder = tmp_path / "zoo" / entry["base"]
    assert set(entry["files"]) == files_below(folder) == files_below(run / "student") | {"recipe.yaml"}
    for path, file in entry["files"].items():
        data = (folder / path).read_bytes()
        assert file == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert (folder / "recipe.yaml").read_bytes() == (run / "recipe.resolved.yaml").read_bytes()


def test_what_was_published_is_what_is_downloaded(run, tmp_path, serve):
    entry = publish(run, tmp_path / "zoo", name="mine", description="Mine.", licence="MIT", say=quiet)
    assert (entry.name, entry.description, entry.licence) == ("mine", "Mine.", "MIT")
    server = serve(tmp_path / "zoo")
    folder = download("mine", index=server.address)
    published = tmp_path / "zoo/students/mine"
    assert {path: (folder / path).read_bytes() for path in files_below(folder)} == {
        path: (published / path).read_bytes() for path in files_below(published)
    }


def test_what_was_done_is_said(run, tmp_path, capsys):
    publish(run, tmp_path / "zoo")
    publish(run, tmp_path / "zoo", overwrite=True)
    first, second = capsys.readouterr().out.split("published")[1:]
    zoo = tmp_path / "zoo"
    assert f"tiny-text-to-image → {zoo}/students/tiny-text-to-image" in first
    assert "model.safetensors 2" in first
    assert "weights    float16, 4" in first
    assert f"index      {zoo}/index.json: 1 entry, this one new" in first
    assert f"use        xmodal zoo download tiny-text-to-image --from {zoo}" in first
    assert "this one replaced" in second


@pytest.mark.parametrize("where", ["local", "memory"])
def test_a_name_that_is_taken_is_replaced_only_when_asked(run, tmp_path, where):
    memory = fsspec.filesystem("memory")
    to = str(tmp_path / "zoo") if where == "local" else "memory://shelf/zoo"
    try:
        publish(run, to, name="other", say=quiet)
        old = publish(run, to, name="mine", say=quiet)
        for name in ("mine", "Mine"):
            with pytest.raises(ZooError, match=r"has an entry 'mine' already.*--overwrite"):
                publish(run, to, name=name, say=quiet)
        new = publish(run, to, name="mine", half=False, overwrite=True, say=quiet)
        assert new.digest != old.digest
        assert [entry.name for entry in list_entries(to)] == ["other", "mine"]
        assert show("mine", index=to).weights == "float32"
        stored = {f"{entry.base}{path}" for entry in list_entries(to) for path in entry.files} | {"index.json"}
        found = (
            files_below(tmp_path / "zoo")
            if where == "local"
            else {path.removeprefix("/shelf/zoo/") for path in memory.find("/shelf/zoo")}
        )
        assert found == stored  # of the old entry nothing is left
        for name in ("other", "mine"):
            download(name, index=to)
    finally:
        if memory.exists("/shelf"):
            memory.rm("/shelf", recursive=True)


def test_a_student_shipped_with_a_package_keeps_its_folder_when_it_is_replaced(run, tmp_path):
    publish(run, tmp_path, name="mine", say=quiet)
    assert publish(run, tmp_path, name="mine", half=False, overwrite=True, say=quiet).base == "students/mine/"


class Killed(BaseException):
    """Stands for the process's end: nothing but `finally` runs after it."""


@pytest.mark.parametrize("where", ["local", "memory"])
def test_an_overwrite_that_is_killed_leaves_the_old_student_or_the_new_one(run, tmp_path, monkeypatch, where):
    """Killed at every step in turn that changes the zoo; the next publication mends what is left."""
    memory = fsspec.filesystem("memory")
    if where == "local":
        to = str(tmp_path / "zoo")
        steps = [(Path, "rename"), (Path, "unlink"), (shutil, "rmtree"), (shutil, "copyfile"), (os, "replace")]
    else:
        to = "memory://shelf"
        steps = [(type(memory), "put_file"), (type(memory), "pipe_file"), (type(memory), "rm_file")]
    new_digest = publish(run, tmp_path / "elsewhere", half=False, say=quiet).digest
    done = dies_at = 0
    try:
        while not done:
            old_digest = publish(run, to, name="mine", say=quiet, overwrite=True).digest
            steps_left = iter(range(dies_at))
            with monkeypatch.context() as patch:
                for owner, function in steps:
                    patch.setattr(owner, function, dying(getattr(owner, function), steps_left, to.split("//")[-1]))
                try:
                    publish(run, to, name="mine", half=False, overwrite=True, say=quiet)
                    done = True
                except Killed:
                    dies_at += 1
            assert show("mine", index=to).digest in ({new_digest} if done else {old_digest, new_digest})
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
            download("mine", index=to)
        assert dies_at > 5
        if where == "local":
            assert files_below(tmp_path / "zoo") == {
                f"students/mine/{path}" for path in show("mine", index=to).files
            } | {"index.json"}
    finally:
        if memory.exists("/shelf"):
            memory.rm("/shelf", recursive=True)


def dying(function, steps_left, zoo):
    """``function``, which kills instead of touching ``zoo`` once no steps are left."""

    def step(*arguments, **options):
        if any(zoo in str(argument) for argument in arguments) and next(steps_left, None) is None:
            raise Killed
        return function(*arguments, **options)

    return step


def test_two_publications_at_once_both_end_in_the_index(run, tmp_path):
    code = "import sys; from xmodal.zoo import publish; publish(sys.argv[1], sys.argv[2], name=sys.argv[3], half=False)"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(run), str(tmp_path / "zoo"), f"student-{number}"],
            stdout=subprocess.DEVNULL,
        )
        for number in range(4)
    ]
    assert [process.wait(timeout=60) for process in started] == [0] * 4
    assert sorted(entry.name for entry in list_entries(tmp_path / "zoo")) == [
        f"student-{number}" for number in range(4)
    ]


def test_other_entries_files_are_never_removed(run, tmp_path):
    zoo = tmp_path / "zoo"
    publish(run, zoo, name="mine", say=quiet)
    index = read_index(zoo)
    other = {**index["entries"][0], "name": "other"}  # an index written by hand, whose entries share files
    (zoo / "index.json").write_text(json.dumps({**index, "entries": [*index["entries"], other]}))
    with pytest.raises(ZooError, match=r"holds the files of entry 'other'"):
        publish(run, zoo, name="mine", overwrite=True, say=quiet)
    download("other", index=zoo)


@pytest.mark.parametrize("lacking", ["student", "summary.json", "recipe.resolved.yaml", "everything"])
def test_a_run_that_is_not_finished_is_not_published(run, tmp_path, lacking):
    target = run / lacking if lacking != "everything" else run
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(ZooError, match="is not the folder of a finished run") as caught:
        publish(run, tmp_path / "zoo", say=quiet)
    assert ("no such folder" if lacking == "everything" else f"lacks {lacking}") in str(caught.value)
    assert not (tmp_path / "zoo").exists()


def test_a_student_with_a_pickle_is_not_published(run, tmp_path):
    (run / "student/optimizer.pt").write_bytes(b"")
    with pytest.raises(ZooError, match=r"lists optimizer\.pt"):
        publish(run, tmp_path / "zoo", say=quiet)
    (run / "student/optimizer.pt").rename(run / "student/notes.txt")
    (run / "student/notes.txt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ZooError, match=r"notes\.txt cannot be published"):
        publish(run, tmp_path / "zoo", say=quiet)
    assert not (tmp_path / "zoo").exists()


def test_a_student_of_another_tool_is_not_published(run, tmp_path):
    config = json.loads((run / "student/config.json").read_text())
    del config["xmodal"]
    (run / "student/config.json").write_text(json.dumps(config))
    with pytest.raises(ZooError, match="no config of it has the key `xmodal`"):
        publish(run, tmp_path / "zoo", say=quiet)


@pytest.mark.parametrize("text", ['{"format": 9, "entries": []}', "{", '{"format": 1, "entries": [{}]}'])
def test_an_index_that_cannot_be_read_is_left_as_it_is(run, tmp_path, text):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(ZooError, match=r"index\.json"):
        publish(run, tmp_path, say=quiet)
    assert (tmp_path / "index.json").read_text() == text
    assert not (tmp_path / "students").exists()


def test_places_that_cannot_be_written_are_named(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    (tmp_path / "file").write_text("")
    for to, message in (
        ("https://host/zoo", r"https://host/zoo cannot be written\. Publish to a folder"),
        (tmp_path / "file", "cannot be written"),
        ("s3://bucket/zoo", "pip install s3fs"),
    ):
        with pytest.raises(ZooError, match=message):
            publish(run, to, say=quiet)
    with pytest.raises(ZooError, match=r"'a/b' is not a name for a zoo.*--name"):
        publish(run, tmp_path / "zoo", name="a/b", say=quiet)


def test_a_remote_write_that_comes_out_short_leaves_the_index_alone(run, monkeypatch):
    memory = fsspec.filesystem("memory")
    try:
        publish(run, "memory://shelf/zoo", name="old", say=quiet)
        before = memory.cat_file("/shelf/zoo/index.json")
        monkeypatch.setattr(
            type(memory), "put_file", lambda self, source, target, **_: self.pipe_file(target, b"short")
        )
        with pytest.raises(ZooError, match=r"has 5 bytes after it was written.*index was not changed"):
            publish(run, "memory://shelf/zoo", name="new", say=quiet)
        assert memory.cat_file("/shelf/zoo/index.json") == before
    finally:
        memory.rm("/shelf", recursive=True)


def test_a_remote_write_is_tried_again(run, monkeypatch):
    from xmodal.zoo import remote

    memory = fsspec.filesystem("memory")
    original, failures = type(memory).put_file, [OSError("connection reset"), RuntimeError("throttled")]

    def unsteady(self, *arguments, **options):
        if failures:
            raise failures.pop()
        return original(self, *arguments, **options)

    monkeypatch.setattr(type(memory), "put_file", unsteady)
    monkeypatch.setattr(remote.place_remotely, "__defaults__", (Patience(pause=0.001),))
    try:
        publish(run, "memory://shelf/zoo", name="new", say=quiet)
        download("new", index="memory://shelf/zoo")
    finally:
        memory.rm("/shelf", recursive=True)


def test_the_tables_show_the_measure_beside_the_baseline(run, tmp_path):
    publish(run, tmp_path, say=quiet)
    (entry,) = list_entries(tmp_path)
    header, line = render_list([entry]).splitlines()
    assert line.split() == [
        "tiny-text-to-image",
        "image",
        "timm",
        "all-MiniLM-L6-v2",
        *line.split()[4:6],
        "text_to_image_recall@10,",
        "unseen",
        "0.625",
        "0.250",
        "±",
        "0.010",
    ]
    assert header.split() == ["name", "modality", "library", "teacher", "size", "metric", "baseline"]
    page = render_entry(entry)
    for expected in (
        *entry.files,
        entry.files["config.json"].sha256,
        "all-MiniLM-L6-v2 text.embedding 16",
        "12 345",
        "CC-BY-4.0",
        "tiny-without-teacher",
        "0.250 ± 0.010",
        entry.load,
    ):
        assert expected in page
    assert "no students yet" in render_list([])

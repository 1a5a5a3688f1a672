"""What an index may say, and what is refused before anything is fetched for it."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import xmodal.zoo
from xmodal.errors import ZooError
from xmodal.zoo import download, list_entries
from xmodal.zoo.files import is_allowed, sha256_of, unsafe_path
from xmodal.zoo.index import parse_index
from xmodal.zoo.location import locate


@pytest.mark.parametrize(
    "path",
    [
        "../outside.json",
        "a/../../outside.json",
        "..",
        "/etc/passwd.txt",
        "~/x.json",
        "C:/x.json",
        "C:x.json",
        "..\\x.json",
        "a\\b.json",
        "//host/x.json",
        "file:///x.json",
        ".git/hooks.json",
        "a//b.json",
        "./x.json",
        "x.json/",
        "x\0.json",
        "x\n.json",
        "x.json.",
        "x.json ",
        "",
        "a" * 300,
    ],
)
def test_a_file_name_that_leaves_the_folder_refuses_the_index(make_zoo, cache, tmp_path, path):
    zoo = make_zoo()
    index = json.loads((zoo.folder / "index.json").read_text())
    files = index["entries"][0]["files"]
    files[path] = files.pop("config.json")
    (zoo.folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(
        ZooError, match=r"is refused; nothing was downloaded\.\n  entries\.emoji\.files  file .* is refused"
    ):
        download("emoji", index=zoo.folder)
    assert not cache.exists()
    assert not (tmp_path / "outside.json").exists()


@given(st.text(st.sampled_from("ab.\\/:~ \0-_C%+é") | st.characters(), max_size=12))
@example("a/b.json")
@example("1_Pooling/config.json")
def test_a_name_that_passes_lies_below_its_folder_on_every_system(path):
    if unsafe_path(path) is None:
        for flavour in (PurePosixPath, PureWindowsPath):
            root = flavour("/base/folder")
            joined = root / path
            assert joined.is_relative_to(root)
            assert ".." not in joined.parts
            assert len(joined.parts) == len(root.parts) + path.count("/") + 1
            assert not flavour(path).drive
            assert not flavour(path).root
        assert PureWindowsPath(path).as_posix() == path
        assert not any(part.startswith(".") for part in path.split("/"))


@pytest.mark.parametrize(
    "base",
    [
        "../other/",
        "/etc/",
        "a/../../b",
        "file:///etc/",
        "memory://x/",
        "https://host/../x",
        "http://h/a?b=",
        "zip://a::b",
    ],
)
def test_a_base_that_leaves_the_index_is_refused(make_zoo, base):
    with pytest.raises(ZooError, match=r"entries\.emoji\.base  base .* is refused"):
        list_entries(make_zoo(base=base).folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.json": b"1", "A.json": b"2"}, "'A.json' would overwrite"),
        ({"a.json": b"1", "a.json/b.json": b"2"}, "'a.json/b.json' would overwrite"),
        ({}, "at least 1 item"),
    ],
)
def test_files_that_cannot_lie_side_by_side_are_refused(tmp_path, zoo, files, message):
    entry = json.loads((zoo.folder / "index.json").read_text())["entries"][0]
    entry["files"] = {path: {"size": 1, "sha256": "0" * 64} for path in files}
    entry["size"] = len(files)
    zoo.write_index(entry)
    with pytest.raises(ZooError, match=message):
        list_entries(zoo.folder)


def test_every_mistake_of_an_index_is_named_at_once(zoo):
    entry = json.loads((zoo.folder / "index.json").read_text())["entries"][0]
    bad_hash = {**entry, "name": "one", "files": {"a.json": {"size": -1, "sha256": "xyz"}}}
    bad_size = {**entry, "name": "two", "size": 7}
    nameless = {key: value for key, value in entry.items() if key != "name"} | {"base": "/"}
    zoo.write_index(bad_hash, bad_size, nameless)
    with pytest.raises(ZooError) as caught:
        list_entries(zoo.folder)
    message = str(caught.value)
    for expected in (
        "entries.one.files.a.json.size",
        "entries.one.files.a.json.sha256",
        "entries.two  size is 7",
        "entries.2.name",
        "entries.2.base",
    ):
        assert expected in message


@pytest.mark.parametrize("name", ["../x", "", ".x", "a/b", "x y", "a" * 97, "x."])
def test_an_entry_name_is_a_plain_word(make_zoo, name):
    zoo = make_zoo()
    entry = json.loads((zoo.folder / "index.json").read_text())["entries"][0]
    zoo.write_index({**entry, "name": name})
    with pytest.raises(ZooError, match="is not a name"):
        list_entries(zoo.folder)


def test_names_are_unique_whatever_their_case(zoo):
    entry = json.loads((zoo.folder / "index.json").read_text())["entries"][0]
    zoo.write_index(entry, {**entry, "name": "Emoji"})
    with pytest.raises(ZooError, match="two entries share: emoji"):
        list_entries(zoo.folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"format": 2, "entries": [], "new": 1}',
            r"has format 2; this xmodal reads formats up to 1\. Update it: pip install -U xmodal",
        ),
        ('{"entries": []}', "is not a zoo index: expected"),
        ('{"format": true}', "is not a zoo index: expected"),
        ("[]", "is not a zoo index: expected"),
        ("<html>", "it is not JSON"),
        ("\udcff", "it is not JSON"),
        ('{"format": 1, "entries": [3]}', r"entries\.0  Input should be"),
    ],
)
def test_what_is_no_index_of_ours_is_refused(zoo, text, message):
    (zoo.folder / "index.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ZooError, match=message):
        list_entries(zoo.folder)


def test_keys_of_a_later_version_are_kept(make_zoo):
    data = (make_zoo(colour="red").folder / "index.json").read_bytes()
    again = json.loads(parse_index(parse_index(data, "x").to_json(), "x").to_json())
    assert again["entries"][0]["colour"] == "red"


@pytest.mark.parametrize(
    "name",
    ["x.bin", "x.pt", "x.pth", "x.ckpt", "x.pkl", "x.npy", "x.npz", "x.py", "x.h5", "x.sh", "x.zip", "x", "x.so"],
)
def test_types_that_can_carry_code_are_not_allowed(name):
    assert not is_allowed(name)
    assert not is_allowed(name.upper())


def test_the_index_in_the_package_is_whole():
    """What is listed is there, as listed; what is there is listed."""
    folder = Path(xmodal.zoo.__file__).parent
    raw = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    assert locate(None).index == str(folder / "index.json")
    assert [entry.name for entry in list_entries()] == [entry["name"] for entry in raw["entries"]]
    listed = set()
    for entry in raw["entries"]:
        for path, file in entry["files"].items():
            at = folder / entry["base"] / path
            assert (at.stat().st_size, sha256_of(at)) == (file["size"], file["sha256"])
            listed.add(at)
        assert download(entry["name"], offline=True).is_dir()
    assert listed == {path for path in (folder / "students").rglob("*") if path.is_file()}

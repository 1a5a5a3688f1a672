"""examples/build_names_shards.py, on a package like CLDR's with a few of the real emoji."""

from __future__ import annotations

import json

import pytest

from xmodal.data import open_shards, read_manifest
from xmodal.data.check import check
from xmodal.data.hashing import file_sha256

LANGUAGES = {"en", "el"} | set(
    "de fr es it pt nl sv da fi pl cs ru uk bg ro hu tr ar he fa hi bn th vi id sw ja ko zh".split()  # noqa: SIM905
)


def read(shards):
    opened = open_shards(shards)
    return {raw.key: raw.members for raw in map(opened.read, range(opened.num_samples))}


@pytest.fixture(scope="module")
def emoji():
    """Split → codepoint → English name, of the real emoji shards."""

    def names(split):
        abouts = (json.loads(members["json"]) for members in read(f"package://emoji/{split}-*.tar").values())
        return {about["codepoint"]: about["name"] for about in abouts}

    return {split: names(split) for split in ("train", "names")}


@pytest.fixture
def given(emoji, npm_tgz, tmp_path):
    """A folder with the package, and its codepoints: 12 of each split, a keycap, and what is no emoji of ours."""
    codes = {split: sorted(names)[:: len(names) // 11][:12] for split, names in emoji.items()}
    codes["train"] = list({*codes["train"], next(code for code in emoji["train"] if code.startswith("003"))})
    others = ["\U0001f3fb", "{", "\U0001f468\U0001f3fd"]  # skin tones and a letter
    texts = ["".join(chr(int(part, 16)) for part in code.split("-")) for split in codes.values() for code in split]
    files = {}
    for language in sorted(LANGUAGES | {"af"}):
        entries = {text: {"default": ["λέξη"], "tts": [f"{language} όνομα {text}"]} for text in [*texts, *others]}
        if language == "el":
            del entries[texts[0]]["tts"]
        document = {"annotations": {"identity": {"language": language}, "annotations": entries}}
        files[f"annotations/{language}/annotations.json"] = json.dumps(document).encode()
    folder = tmp_path / "packages"
    folder.mkdir()
    npm_tgz(folder / "cldr-annotations-full-48.2.0.tgz", files)
    return folder, codes, texts


@pytest.fixture
def script(load, given, monkeypatch):
    module = load("build_names_shards")
    folder, _, _ = given
    monkeypatch.setattr(module, "SHA256", file_sha256(folder / "cldr-annotations-full-48.2.0.tgz"))
    return module


def test_each_language_has_each_emoji_and_what_is_held_out_is_in_no_training_shard(
    script, run_main, given, emoji, tmp_path
):
    folder, codes, texts = given
    run_main(script, "--packages", folder, "--out", tmp_path / "out")
    train = read(f"{tmp_path}/out/train-*.tar")
    every = {f"{language}-{code}" for language in LANGUAGES for code in codes["train"]}
    assert set(train) == every - {f"el-{codes['train'][0]}"}  # has no name in Greek
    tests = {path.name for path in (tmp_path / "out").glob("test-*.tar")}
    assert tests == {f"test-{language}-000000.tar" for language in LANGUAGES}
    for language in ("en", "el", "ja"):
        test = read(f"{tmp_path}/out/test-{language}-*.tar")
        assert set(test) == {f"{language}-{code}" for code in codes["names"]}
    assert not set(codes["names"]) & {key.partition("-")[2] for key in train}

    code, text = codes["names"][3], texts[len(codes["train"]) + 3]
    members = read(f"{tmp_path}/out/test-el-*.tar")[f"el-{code}"]
    name = f"el όνομα {text}"
    assert members["txt"].decode() == name
    english = emoji["names"][code]
    about = {"name": name, "english": english, "language": "el", "codepoint": code, "keywords": ["λέξη"]}
    assert json.loads(members["json"]) == about
    # English names are those of the emoji shards
    assert read(f"{tmp_path}/out/test-en-*.tar")[f"en-{code}"]["txt"].decode() == english
    assert check(f"{tmp_path}/out/train-*.tar") == []
    assert "Unicode-3.0" in read_manifest(tmp_path / "out").licence


def test_the_same_package_gives_the_same_bytes(script, run_main, given, tmp_path):
    for out in ("a", "b"):
        run_main(script, "--packages", given[0], "--out", tmp_path / out)
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / out).iterdir()} for out in ("a", "b"))
    assert first == second


def test_a_language_that_the_package_lacks_is_named(script, npm_tgz, tmp_path):
    path = tmp_path / "x.tgz"
    files = {f"annotations/{each}/annotations.json": b'{"annotations": {"annotations": {}}}' for each in LANGUAGES}
    del files["annotations/el/annotations.json"]
    npm_tgz(path, files)
    with pytest.raises(SystemExit, match="lacks el"):
        script.build(path, tmp_path / "out")

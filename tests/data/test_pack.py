from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
import wave

import pytest
import webdataset

from xmodal.data import ShardWriter, open_shards, read_manifest
from xmodal.data.decode import decode
from xmodal.data.hashing import file_sha256
from xmodal.data.pack import pack
from xmodal.errors import DataError


def sound():
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(1600))
    return buffer.getvalue()


SOUND = sound()


def samples(folder):
    shards = open_shards(folder)
    return {raw.key: raw.members for raw in map(shards.read, range(shards.num_samples))}


def test_pairs_are_packed_byte_for_byte_into_shards_of_the_size_asked_for(pair_folder, tmp_path):
    (pair_folder / "sub.v1").mkdir()
    (pair_folder / "sub.v1" / "deep.name.JPG").write_bytes((pair_folder / "item0.png").read_bytes())
    (pair_folder / "sub.v1" / "deep.name.txt").write_text("deep")
    (pair_folder / "item0.wav").write_bytes(SOUND)
    (pair_folder / "README.md").write_text("about")
    (pair_folder / ".DS_Store").write_text("x")
    manifest = pack(pair_folder, tmp_path / "out", shard_size=3)
    assert [entry.samples for entry in manifest.shards] == [3, 3, 2]
    assert [entry.name for entry in manifest.shards] == [f"shard-00000{n}.tar" for n in range(3)]
    expected = {
        f"item{n}": {e: (pair_folder / f"item{n}.{e}").read_bytes() for e in (["png", "txt"] + ["wav"] * (n == 0))}
        for n in range(7)
    }
    expected["sub.v1/deep_name"] = {"jpg": expected["item0"]["png"], "txt": b"deep"}
    assert samples(tmp_path / "out") == expected


def test_webdataset_reads_what_was_packed(pair_folder, tmp_path):
    pack(pair_folder, tmp_path / "out", shard_size=4)
    urls = sorted(str(path) for path in (tmp_path / "out").glob("*.tar"))
    theirs = {
        sample["__key__"]: {name: data for name, data in sample.items() if not name.startswith("__")}
        for sample in webdataset.WebDataset(urls, shardshuffle=False)
    }
    assert theirs == samples(tmp_path / "out")


def test_the_manifest_says_what_is_there(pair_folder, tmp_path):
    out = tmp_path / "out"
    returned = pack(pair_folder, out, shard_size=4, description="things", licence="CC0")
    assert read_manifest(out) == returned
    assert (returned.description, returned.licence, returned.num_samples) == ("things", "CC0", 7)
    for entry in returned.shards:
        path = out / entry.name
        assert (entry.size, entry.sha256) == (path.stat().st_size, file_sha256(path))
        assert entry.fields == ("png", "txt")
    names = {path.name for path in out.iterdir()}
    assert names == {"manifest.json"} | {f"shard-00000{n}.{e}" for n in (0, 1) for e in ("tar", "index.json")}


def test_equal_sources_give_equal_bytes_and_the_seed_another_order(pair_folder, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1), ("d", None)):
        pack(pair_folder, tmp_path / name, seed=seed)
        os.utime(pair_folder / "item0.png", (1, 1))  # times leave no trace
    content = {name: (tmp_path / name / "shard-000000.tar").read_bytes() for name in "abcd"}
    assert content["a"] == content["b"]
    assert len(set(content.values())) == 3
    assert list(samples(tmp_path / "d")) == [f"item{n}" for n in range(7)]
    assert samples(tmp_path / "a") == samples(tmp_path / "d")


def test_class_folders_give_label_and_name(tmp_path, picture):
    for name in ("zebra", "polar_bear"):
        (tmp_path / "src" / name / "more").mkdir(parents=True)
        for number in range(2):
            (tmp_path / "src" / name / "more" / f"p{number}.png").write_bytes(picture())
    manifest = pack(tmp_path / "src", tmp_path / "out")
    assert manifest.class_names == ("polar_bear", "zebra")
    packed = samples(tmp_path / "out")
    assert {key: (m["cls"], m["txt"]) for key, m in packed.items()} == {
        f"{name}/more/p{n}": (label, text)
        for name, label, text in (("polar_bear", b"0", b"polar bear"), ("zebra", b"1", b"zebra"))
        for n in range(2)
    }


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_tables_give_picture_text_label_and_keep_other_columns(tmp_path, picture, form):
    (tmp_path / "images").mkdir()
    for number in range(2):
        (tmp_path / "images" / f"p.{number}.png").write_bytes(picture((number, 0, 0)))
    (tmp_path / "say.wav").write_bytes(SOUND)
    rows = [
        {"image": "images/p.0.png", "text": 'one, "quoted"\nline', "audio": "say.wav", "label": "cat", "source": "web"},
        {"image": "images/p.1.png", "text": "zwei ö", "audio": "say.wav", "label": "ant", "source": "book"},
        {"image": "images/p.1.png", "text": "again", "audio": "say.wav", "label": "cat", "source": "book"},
    ]
    table = tmp_path / f"table.{form}"
    with table.open("w", newline="") as file:
        if form == "csv":
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n\n" for row in rows)
    manifest = pack(table, tmp_path / "out", seed=None)
    assert manifest.class_names == ("ant", "cat")
    packed = samples(tmp_path / "out")
    assert list(packed) == ["images/p_0", "images/p_1", "images/p_1-2"]
    assert packed["images/p_0"]["txt"].decode() == 'one, "quoted"\nline'
    assert [members["cls"] for members in packed.values()] == [b"1", b"0", b"1"]
    assert all(set(members) == {"png", "txt", "wav", "cls", "json"} for members in packed.values())
    assert json.loads(packed["images/p_1"]["json"]) == {"source": "book"}


def test_number_labels_stay_and_a_list_column_serves_as_text(tmp_path, picture):
    (tmp_path / "p.png").write_bytes(picture())
    row = {"image": "p.png", "label": 40, "captions": ["a", "b"], "key": "mine"}
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    manifest = pack(tmp_path / "t.jsonl", tmp_path / "out")
    sample = decode(open_shards(tmp_path / "out").read(0), fields=("image", "text", "label"), text="json.captions")
    assert (manifest.class_names, sample["label"], sample["key"]) == (None, 40, "mine")
    assert sample["text"] in ("a", "b")


def test_samples_that_are_not_whole_are_all_named_and_nothing_is_written(pair_folder, tmp_path):
    (pair_folder / "item1.txt").unlink()
    (pair_folder / "item2.png").unlink()
    (pair_folder / "item3.png").write_bytes(b"no picture")
    (pair_folder / "item4.txt").write_bytes(b"")
    (pair_folder / "item5.wav").write_bytes(SOUND[:-200])
    with pytest.raises(DataError, match="5 of 7 samples") as error:
        pack(pair_folder, tmp_path / "out", shard_size=1)
    parts = ("item1: has no text", "item2: has no picture", "item3: picture is not one of", "item4: .txt is empty")
    for part in (*parts, "item5: sound is cut short"):
        assert part in str(error.value)
    assert not (tmp_path / "out").exists()


def test_samples_that_are_not_whole_can_be_left_out(pair_folder, tmp_path, caplog):
    (pair_folder / "item1.txt").unlink()
    (pair_folder / "item3.png").write_bytes(b"no picture")
    manifest = pack(pair_folder, tmp_path / "out", incomplete="skip")
    assert manifest.num_samples == 5
    assert set(samples(tmp_path / "out")) == {f"item{n}" for n in (0, 2, 4, 5, 6)}
    assert "2 of 7 samples left out" in caplog.text


def test_a_folder_in_use_is_refused_and_left_as_it_is(pair_folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(DataError, match="out is not empty"):
        pack(pair_folder, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    with pytest.raises(DataError, match="mine is a file"):
        pack(pair_folder, tmp_path / "out" / "mine")


def test_a_killed_packing_leaves_no_half_shard_under_a_shards_name_and_is_recognised(pair_folder, tmp_path):
    code = (
        "import sys, time; from xmodal.data.pack import pack\n"
        "pack(sys.argv[1], sys.argv[2], shard_size=3, progress=lambda done, of: time.sleep(60 * (done == 5)))"
    )
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", code, str(pair_folder), str(out)])
    while not (out / "shard-000001.tar.partial").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert {path.name for path in out.glob("*.tar")} == {"shard-000000.tar"}
    assert open_shards(out).num_samples == 3
    with pytest.raises(DataError, match="holds a packing that was interrupted"):
        pack(pair_folder, out)


def test_links_are_followed_inside_the_source_only(pair_folder, tmp_path):
    (pair_folder / "again.png").symlink_to("item0.png")
    (pair_folder / "again.txt").symlink_to(pair_folder / "item0.txt")
    pack(pair_folder, tmp_path / "good")
    assert "again" in samples(tmp_path / "good")
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    for target, message in ((secret, "file outside"), (tmp_path, "a folder"), (tmp_path / "gone", "does not exist")):
        (pair_folder / "again.txt").unlink()
        (pair_folder / "again.txt").symlink_to(target)
        with pytest.raises(DataError, match=rf"again\.txt is a link to .*{message}|is a link to {message}"):
            pack(pair_folder, tmp_path / "bad")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no picture"),
        ({"a.txt": b"x"}, "no picture"),
        ({"a.png": None}, "without texts: a has no a.txt"),
        ({"a.png": None, "A.txt": b"", "c/b.png": None}, "without texts|not whole"),
        ({"a.png": None, "a.jpg": None, "a.txt": b"x"}, "2 pictures"),
        ({"a.png": None, "a.PNG": None, "a.txt": b"x"}, "differ by case"),
        ({"__a__.png": None, "__a__.txt": b"x"}, "cannot be a key"),
        ({"c/a.png": None, "c/b.wav": b"x"}, "hold pictures only"),
    ],
)
def test_a_folder_that_is_not_understood_says_why(tmp_path, picture, files, message):
    (tmp_path / "src" / "c").mkdir(parents=True)
    for name, data in files.items():
        (tmp_path / "src" / name).write_bytes(picture() if data is None else data)
    with pytest.raises(DataError, match=message):
        pack(tmp_path / "src", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", "no column image"),
        ("t.csv", "picture,text\na.png,x\n", "no column image or audio; it has picture, text"),
        ("t.csv", "image\na.png\n", "no column text or label"),
        ("t.csv", "image,text\na.png\n", "t.csv:2: the row has more or fewer"),
        ("t.csv", "image,text\na.png,x\nb.png,\n", "t.csv:3: has no text"),
        ("t.csv", "image,text\nnone.png,x\n", "t.csv:2: there is no file .*none.png"),
        ("t.csv", "image,text\na.exe,x\n", "t.csv:2: image 'a.exe' does not end in"),
        ("t.csv", b"image,text\na.png,\xff\n", "UTF-8"),
        ("t.jsonl", '{"image": "a.png", "text": ["x"]}', "a list belongs in a column"),
        ("t.jsonl", '{"image": "a.png", "text": "x"}\n[1]', "t.jsonl:2 is list"),
        ("t.jsonl", '{"image": "a.png", "text": "x"}\n{', "t.jsonl:2 is not JSON"),
        ("t.txt", "x", "neither a folder nor"),
    ],
)
def test_a_table_that_is_not_understood_names_the_line(tmp_path, picture, name, content, message):
    (tmp_path / "a.png").write_bytes(picture())
    (tmp_path / "b.png").write_bytes(picture())
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        pack(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_not_there_is_told_apart_from_its_neighbours(tmp_path, pair_folder):
    with pytest.raises(DataError, match=r"does not exist\. Nearest: pairs"):
        pack(tmp_path / "pair", tmp_path / "out")


@pytest.mark.parametrize("pattern", ["shard.tar", "shard-{}.zip", "sub/{}.tar", "{x}.tar"])
def test_a_pattern_that_cannot_number_shards_is_refused(tmp_path, pattern):
    with pytest.raises(DataError, match="pattern"):
        ShardWriter(tmp_path, pattern=pattern)


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    def interrupted():
        with ShardWriter(tmp_path, shard_size=1) as writer:
            writer.add("a", {"txt": b"a"})
            writer.add("b", {"txt": b"b"})
            raise KeyboardInterrupt

    def twice():
        with ShardWriter(tmp_path, shard_size=9) as writer:
            for key in "aba":
                writer.add(key, {"txt": b"a"})

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(DataError, match="'a' occurs twice"):
        twice()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.b/c.d.txt", "a._x", "a.TXT", "../a.txt", "a\nb.txt", "__a__.txt"])
def test_a_name_that_would_not_be_read_back_is_not_written(tmp_path, name):
    key, extension = name.rsplit(".", 1)
    with ShardWriter(tmp_path) as writer:
        with pytest.raises(DataError, match="cannot be a member"):
            writer.add(key, {extension: b"x"})
        writer.add("good", {"txt": b"x"})
    assert samples(tmp_path) == {"good": {"txt": b"x"}}


def test_long_and_foreign_keys_are_read_back(tmp_path):
    keys = ["ключ/" + "д" * 90, "a" * 240, "b/" * 80 + "c"]
    with ShardWriter(tmp_path) as writer:
        for key in keys:
            writer.add(key, {"txt": key.encode()})
    assert {key: members["txt"].decode() for key, members in samples(tmp_path).items()} == {key: key for key in keys}

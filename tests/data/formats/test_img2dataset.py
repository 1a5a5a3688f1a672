from __future__ import annotations

import builtins
import json
import tarfile
from pathlib import Path

import pytest

from xmodal.cli import main
from xmodal.data import open_shards
from xmodal.data.decode import decode
from xmodal.data.show import show
from xmodal.errors import DataError


def test_a_folder_is_opened_from_its_statistics_alone(img2dataset, tmp_path, monkeypatch):
    folder = img2dataset(tmp_path / "out", [4, 3])
    read_with = builtins.open

    def refuse(path, *arguments, **options):
        assert not str(path).endswith(".tar"), "a tar was read"
        return read_with(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", refuse)
        patch.setattr(tarfile, "open", refuse)
        patch.setattr(Path, "open", refuse)
        shards = open_shards(folder)
    assert shards.counts == (4, 3)
    assert shards.sizes == tuple((folder / f"{number:05d}.tar").stat().st_size for number in range(2))
    assert not list(folder.glob("*.index.json"))
    sample = decode(shards.read(5), fields=("image", "text"), text="json.caption")
    assert sample["key"] == "000010001"
    assert sample["text"] == decode(shards.read(5), fields=("text",))["text"]
    assert sample["image"].size == (64, 64)


def test_statistics_that_disagree_are_found_when_the_shard_is_read(img2dataset, tmp_path, capsys):
    folder = img2dataset(tmp_path / "out", [4, 3], stated=[4, 5])
    shards = open_shards(folder)
    assert shards.num_samples == 9
    assert shards.read(0).key == "000000000"
    with pytest.raises(DataError, match=r"holds 3 samples .* expected were 5 .*00001_stats.json says so.*data index"):
        shards.read(5)
    assert main(["data", "index", str(folder / "00001.tar")]) == 0
    assert "3 samples   (00001_stats.json says that img2dataset kept 5 of 8)" in capsys.readouterr().out
    assert open_shards(folder).counts == (4, 3)
    assert open_shards(folder).read(6).key == "000010002"


def test_a_shard_cut_short_is_found_when_it_is_read(img2dataset, tmp_path):
    folder = img2dataset(tmp_path / "out", [4, 3])
    shard = folder / "00001.tar"
    shard.write_bytes(shard.read_bytes()[: 2 * shard.stat().st_size // 3])
    shards = open_shards(folder)
    with pytest.raises(DataError, match=r"00001.tar is broken at byte .*last good sample"):
        shards.read(4)


def test_shards_that_are_not_finished_are_named(img2dataset, tmp_path):
    folder = img2dataset(tmp_path / "out", [4, 3, 2], stated=[4, None, None])
    with pytest.raises(DataError, match=r"00001.tar has no 00001_stats.json, nor have 1 more .*stopped before"):
        open_shards(folder)
    assert open_shards(folder / "00000.tar").counts == (4,)
    assert main(["data", "index", str(folder / "00001.tar"), str(folder / "00002.tar")]) == 0
    assert open_shards(folder).counts == (4, 3, 2)


def test_other_shards_need_no_statistics(img2dataset, tmp_path):
    folder = img2dataset(tmp_path / "out", [4, 3])
    (folder / "00001.tar").rename(folder / "mine-00001.tar")
    (folder / "00001_stats.json").unlink()
    assert open_shards(folder).counts == (4, 3)
    for path in folder.glob("*_stats.json"):
        path.unlink()
    assert open_shards(folder).counts == (4, 3)  # a folder without any is read shard by shard


def test_a_shard_of_which_nothing_came_is_refused(img2dataset, tmp_path):
    folder = img2dataset(tmp_path / "out", [2, 0])
    with pytest.raises(DataError, match=r"00001.tar holds no sample: img2dataset kept 0 of 3"):
        open_shards(folder)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"count": 3, "successes": 4}', '{"count": 3, "successes": true}', "[" * 100_000]
)
def test_broken_statistics_are_named(content, img2dataset, tmp_path):
    folder = img2dataset(tmp_path / "out", [2])
    (folder / "00000_stats.json").write_text(content)
    with pytest.raises(DataError, match=r"00000_stats.json are not img2dataset's .*Remove them"):
        open_shards(folder)


def test_show_reads_the_first_headers_only(img2dataset, tmp_path, capsys):
    folder = img2dataset(tmp_path / "out", [4, 3])
    rows = show(folder)
    assert [(row["samples"], row["members"], row["first_key"], row["note"]) for row in rows] == [
        (4, "jpg, json, txt", "000000000", "img2dataset kept 4 of 7"),
        (3, "jpg, json, txt", "000010000", "img2dataset kept 3 of 6"),
    ]
    assert not list(folder.glob("*.index.json"))
    assert main(["data", "show", str(folder)]) == 0
    assert "img2dataset kept 4 of 7" in capsys.readouterr().out
    assert main(["data", "show", "package://emoji/names-*.tar"]) == 0
    assert "note" not in capsys.readouterr().out
    assert main(["data", "show", str(folder), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == rows


def test_a_manifest_comes_before_the_statistics(img2dataset, tmp_path):
    folder = img2dataset(tmp_path / "out", [4])
    assert main(["data", "index", str(folder)]) == 0
    (folder / "00000_stats.json").write_text("broken")
    assert open_shards(folder).counts == (4,)

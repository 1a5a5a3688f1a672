"""Any number of processes, killed at any point, write every shard once and nothing in halves."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from xmodal.data.cache.job import cache
from xmodal.data.cache.places import Places
from xmodal.data.cache.sidecar import Sidecar
from xmodal.data.reading import Reading
from xmodal.data.shards import ShardSet
from xmodal.data.writer import ShardWriter
from xmodal.errors import DataError

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import os, signal, sys
import xmodal.data.cache.shard as shard
from xmodal.data.cache.job import Job, cache
from xmodal.data.shards import open_shards

folder, weights, die_at, when = sys.argv[1:]
written = []
write = shard.write_sidecar

def count(path, tensors, facts):
    if str(len(written)) == die_at and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    if str(len(written)) == die_at and when == "in the middle":
        import xmodal.files as files
        files.os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
    write(path, tensors, facts)
    written.append(path.name)
    if str(len(written) - 1) == die_at and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)

shard.write_sidecar = count
spec = {"name": "timm", "model": "test_efficientnet", "pretrained": weights, "image_size": 32}
cache([Job(spec, ("image.embedding",), open_shards(folder + "/*.tar"), batch_size=2, device="cpu")])
print(*written)
"""


def start(folder, spec, die_at="never", when="never"):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), spec["pretrained"], str(die_at), when],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out.split(), err


def sidecars(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".") or path.name.endswith(".lock")]


@pytest.mark.parametrize("when", ["before", "in the middle", "after"])
def test_killed_while_it_writes_a_rerun_does_only_what_is_missing(folder, picture_spec, job, when):
    code, _, _ = finish(start(folder, picture_spec, 1, when))
    assert code == -signal.SIGKILL
    before = sidecars(folder)
    assert len(before) == (2 if when == "after" else 1)
    assert leftovers(folder)
    done = cache([job()])
    assert (done.count("written"), done.count("finished")) == (3 - len(before), len(before))
    after = sidecars(folder)
    assert {name: after[name] for name in before} == before
    assert leftovers(folder) == []
    assert len(after) == 3


def test_two_at_once_write_each_shard_once(folder, picture_spec, job):
    processes = [start(folder, picture_spec) for _ in range(2)]
    results = [finish(process) for process in processes]
    assert [code for code, _, _ in results] == [0, 0], results
    written = [name for _, names, _ in results for name in names]
    assert sorted(written) == sorted(sidecars(folder))
    assert len(written) == 3
    assert cache([job()]).count("finished") == 3


def test_parts_are_everything_and_nothing_twice(job):
    done = [cache([job()], part=(part, 2)).units for part in range(2)]
    assert set(done[0]) | set(done[1]) == {(0, 0), (0, 1), (0, 2)}
    assert not set(done[0]) & set(done[1])
    assert cache([job()]).count("finished") == 3


def test_workers_write_what_one_process_writes_even_if_one_is_killed(job, tmp_path):
    said = []

    def report(*event):
        if not said:
            multiprocessing.active_children()[0].kill()
        said.append(event)

    done = cache([job(out=str(tmp_path / "pool"), batch_size=2)], workers=2, report=report)
    assert sorted(done.units) == [(0, 0), (0, 1), (0, 2)]
    assert leftovers(tmp_path / "pool") == []
    cache([job(out=str(tmp_path / "alone"), batch_size=2)])
    for path in (tmp_path / "alone").glob("*.safetensors"):
        assert (tmp_path / "pool" / path.name).read_bytes() == path.read_bytes()


def test_an_error_in_a_worker_is_the_callers(job):
    with pytest.raises(DataError, match="--top-k"):
        cache([job("logits.values")], workers=1)


def test_another_folder_leaves_the_shards_alone(job, folder, tmp_path):
    before = sorted(folder.iterdir())
    cache([job(out=str(tmp_path / "out"))])
    assert sorted(folder.iterdir()) == before
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 3


def test_a_folder_that_takes_no_files_is_an_error_with_the_way_out(job, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="--out DIR"):
        cache([job(out=str(tmp_path / "file" / "below"))])


def test_other_settings_are_refused_until_they_may_replace(job, folder):
    cache([job()])
    before = sidecars(folder)
    other = job(reading=Reading(image_size=40))
    with pytest.raises(DataError, match=r"image_size null, not 40.*--out DIR.*--replace"):
        cache([other])
    assert sidecars(folder) == before
    assert cache([job(reading=Reading(image_size=40), replace=True)]).count("written") == 3


def test_a_cut_sidecar_and_a_changed_shard_are_written_again(job, folder):
    cache([job()])
    first, second, _ = sorted(folder.glob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:-100])
    shards = job().shards
    (folder / "new").mkdir()
    with ShardWriter(folder / "new", shard_size=99) as writer:
        for row in range(8):
            raw = shards.read(9 + row)
            writer.add(raw.key, raw.members)
    for path in (folder / "new").iterdir():
        path.replace(folder / path.name.replace("000000", "000001"))
    index = folder / "shard-000001.index.json"
    index.write_text(index.read_text().replace("shard-000000.tar", "shard-000001.tar"))
    (folder / "manifest.json").unlink()
    (folder / "new").rmdir()
    done = cache([job()])
    assert (done.count("written"), done.count("finished")) == (2, 1)
    assert Sidecar(second).samples == 8


def test_nothing_is_kept_beside_a_shard_that_is_elsewhere(tmp_path):
    far = ShardSet(["s3://bucket/a/x.tar", "s3://bucket/b/x.tar"], [3, 3], [9, 9])
    with pytest.raises(DataError, match="--out DIR"):
        Places(far)
    places = Places(far, str(tmp_path))
    assert [places.sidecar(number, "id") for number in range(2)] == [
        tmp_path / "a" / "x.id.safetensors",
        tmp_path / "b" / "x.id.safetensors",
    ]

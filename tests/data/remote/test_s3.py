"""A real S3 server: moto, behind one that drops, stalls, shortens and refuses."""

from __future__ import annotations

import os

import pytest

from xmodal.data import open_shards
from xmodal.data.remote import settings
from xmodal.errors import DataError
from xmodal.transfer.patience import Patience

moto = pytest.importorskip("moto.server")
pytest.importorskip("s3fs")
BUCKET = "s3://shelf/train"


@pytest.fixture(scope="module")
def moto_server():
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(moto_server, serve, folder, monkeypatch):
    """A bucket with the five shards, and the server in front of it."""
    import s3fs

    server = serve(folder, moto_server)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "me",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server.address,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(settings, "PATIENCE", Patience(attempts=4, timeout=2, pause=0.001))
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)  # its own, below ours
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem(endpoint_url=f"http://{moto_server}")
    files.mkdir("shelf")
    for path in folder.iterdir():
        files.put_file(str(path), f"shelf/train/{path.name}")
    server.files = files
    yield server
    server.faults.clear()
    files.rm("shelf", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("pattern", ["", "/*.tar", "/train-{000..004}.tar"])
def test_shards_in_a_bucket_are_those_of_the_folder(bucket, folder, everything, pattern):
    shards, local = open_shards(BUCKET + pattern), open_shards(folder)
    assert shards.fingerprint == local.fingerprint
    assert everything(shards) == everything(local)


def test_a_bucket_without_a_manifest_is_listed(bucket, folder, everything):
    bucket.files.rm_file("shelf/train/manifest.json")
    shards = open_shards("s3://shelf/*/train-*.tar")
    assert shards.paths == tuple(f"{BUCKET}/train-{number:03d}.tar" for number in range(5))
    assert everything(shards) == everything(open_shards(folder))


@pytest.mark.parametrize("kind", ["drop", "stall", "shorten", 503, 500])
def test_a_bucket_that_fails_twice_is_asked_again(bucket, folder, fault, kind):
    failure = fault("status", kind) if isinstance(kind, int) else fault(kind, 20_000)
    bucket.fail("train-000.tar", failure, failure)
    assert open_shards(BUCKET).read(0) == open_shards(folder).read(0)
    assert len(bucket.asked("train-000.tar")) >= 3


def test_a_bucket_that_stays_down_is_named(bucket, fault, monkeypatch):
    monkeypatch.setattr(settings, "PATIENCE", Patience(attempts=2, timeout=2, pause=0.001))
    bucket.fail("train-000.tar", *(fault("status", 503) for _ in range(50)))
    with pytest.raises(DataError, match=rf"(?s){BUCKET}/train-000\.tar could not be copied.*2 times in a row"):
        open_shards(BUCKET).read(0)


def test_what_is_not_in_the_bucket_or_changed_is_said_at_once(bucket, folder):
    files = bucket.files
    shards = open_shards(BUCKET)
    files.rm_file("shelf/train/train-000.tar")
    with pytest.raises(DataError, match=rf"nothing at {BUCKET}/train-000\.tar"):
        shards.read(0)
    files.pipe_file("shelf/train/train-001.tar", b"other")
    with pytest.raises(DataError, match=r"has 5 bytes there; expected were \d+"):
        shards.read(24)
    with pytest.raises(DataError, match="No shard matches"):
        open_shards("s3://shelf/nothing/*.tar")


def test_a_fork_has_a_file_system_of_its_own(bucket, folder):
    shards, local = open_shards(BUCKET), open_shards(folder)
    shards.read(0)  # the parent's loop runs
    child = os.fork()
    if child == 0:
        same = False
        try:
            same = shards.read(24) == local.read(24)
        finally:
            os._exit(0 if same else 1)
    assert shards.read(48) == local.read(48)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

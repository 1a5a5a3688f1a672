"""Several processes, processes that are killed, and forks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from xmodal.data import open_shards

CODE = """
import sys
from xmodal.data import open_shards
from xmodal.data.remote import settings
from xmodal.transfer.patience import Patience
settings.PATIENCE = Patience(timeout=60, pause=0.001)
shards = open_shards(sys.argv[1])
print("opened", flush=True)
print(sum(len(data) for row in range(24) for data in shards.read(row).members.values()))
"""


def start(server):
    return subprocess.Popen(
        [sys.executable, "-c", CODE, f"{server.address}/train-000.tar"], stdout=subprocess.PIPE, text=True
    )


def test_processes_at_once_fetch_a_shard_once(server, fault, until):
    server.fail("train-000.tar", fault("stall", 50_000))
    processes = [start(server) for _ in range(3)]
    for process in processes:
        process.stdout.readline()
    until(lambda: server.asked("train-000.tar"))
    server.closing.set()  # the stalled request ends
    sums = {process.communicate(timeout=60)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(sums) == 1
    assert server.asked("train-000.tar") == [None, "bytes=50000-"]
    assert server.asked("train-000.index.json") == [None]


@pytest.mark.parametrize("at", [20_000, 60_000])
def test_a_killed_fetch_is_carried_on_by_the_next(server, folder, fault, at, cache, cached, until):
    server.fail("train-000.tar", fault("stall", at))
    process = start(server)
    until(lambda: sum(part.stat().st_size for part in cache.rglob("*.part")) >= at)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert cached() == []
    shards, local = open_shards(f"{server.address}/train-000.tar"), open_shards(folder)
    assert [shards.read(row) for row in range(24)] == [local.read(row) for row in range(24)]
    assert server.asked("train-000.tar") == [None, f"bytes={at}-"]


def test_a_fork_fetches_by_itself_while_its_parent_does(server, folder):
    shards, local = open_shards(server.address), open_shards(folder)
    shards.read(0)
    shards.prefetch([1, 2])
    child = os.fork()
    if child == 0:
        same = False
        try:
            shards.prefetch([3])
            same = all(shards.read(sample) == local.read(sample) for sample in range(0, 120, 10))
        finally:
            os._exit(0 if same else 1)
    assert all(shards.read(sample) == local.read(sample) for sample in range(0, 120, 10))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest

from xmodal.errors import DataError


def test_a_killed_worker_is_an_error_where_the_next_batch_is_asked_for(shards, make):
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(make(shards, num_workers=2))
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) == before
    victim, other = multiprocessing.active_children()
    os.kill(victim.pid, signal.SIGKILL)
    time.sleep(0.5)  # nothing is raised here, in the middle of the user's own work
    with pytest.raises(DataError, match=rf"worker \(pid {victim.pid}\) died: SIGKILL.*num_workers.*--resume"):
        list(islice(batches, 10))
    other.join(10)
    assert multiprocessing.active_children() == []


def test_ctrl_c_leaves_the_workers_to_the_process_that_started_them(shards, make, flat, uninterrupted):
    batches = iter(make(shards, num_workers=2))
    next(batches), next(batches)  # both workers are at work
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGINT)
    assert [flat(next(batches)) for _ in range(8)] == uninterrupted[2:10]


SCRIPT = """
import multiprocessing, signal, sys
import numpy, torch
from xmodal.data.stream import TrainStream

class Pixels:
    fields = ("image",)
    def __call__(self, sample):
        return {"pixels": torch.from_numpy(numpy.array(sample["image"]))}
    def collate(self, items):
        return {"pixels": torch.stack([item["pixels"] for item in items])}

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started with it ignored
batches = iter(TrainStream(sys.argv[1], preprocess={"m": Pixels()}, batch_size=8, image_size=12, num_workers=2))
next(batches)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
while True:
    next(batches)
"""


@pytest.mark.parametrize("by", ["Ctrl-C", "kill -9"])
def test_no_worker_outlives_its_run(shards, by):
    run = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, shards],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert run.stdout is not None
    workers = [int(pid) for pid in run.stdout.readline().split()]
    assert len(workers) == 2
    if by == "Ctrl-C":
        os.killpg(run.pid, signal.SIGINT)  # a terminal sends it to every process of the group
    else:
        run.kill()
    _, errors = run.communicate(timeout=300)
    if by == "Ctrl-C":
        assert errors.count("KeyboardInterrupt") == 1  # the main process's own; workers leave the decision to it
        assert errors.rstrip().endswith("KeyboardInterrupt")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and any(map(is_running, workers)):
        time.sleep(0.1)
    assert not any(map(is_running, workers))


def test_a_worker_that_was_starting_when_its_run_was_killed_ends_too(shards):
    """Its initialisation is held up until the main process is gone, as on a busy machine."""
    slow = SCRIPT.replace(
        "signal.signal(",
        "import time, xmodal.data.workers as workers\n"
        "prepare = workers._prepare_worker\n"
        "def late(worker):\n"
        "    time.sleep(3 * worker)\n"
        "    prepare(worker)\n"
        "workers._prepare_worker = late\n"
        "signal.signal(",
        1,
    )
    run = subprocess.Popen([sys.executable, "-c", slow, shards], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    workers = [int(pid) for pid in run.stdout.readline().split()]
    run.kill()
    run.wait()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and any(map(is_running, workers)):
        time.sleep(0.1)
    assert len(workers) == 2
    assert not any(map(is_running, workers))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

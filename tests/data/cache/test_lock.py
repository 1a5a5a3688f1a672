"""One owner a lock, whoever dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from xmodal.data.cache.lock import Busy, Lock, this_host


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def write(path, **owner):
    path.write_text(json.dumps({"pid": os.getpid(), "host": this_host(), "time": 0, "token": "theirs", **owner}))


def test_a_lock_is_held_by_one_and_given_back(tmp_path):
    path = tmp_path / "x.lock"
    with Lock(path), pytest.raises(Busy, match=str(os.getpid())), Lock(path):
        pass
    assert not list(tmp_path.iterdir())


def test_of_many_threads_one_holds_it_at_a_time(tmp_path):
    inside, most, entered = 0, [], []

    def attempt():
        nonlocal inside
        for _ in range(50):
            try:
                with Lock(tmp_path / "x.lock"):
                    inside += 1
                    most.append(inside)
                    inside -= 1
                    entered.append(1)
            except Busy:
                pass

    threads = [threading.Thread(target=attempt) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert entered


def test_a_dead_process_of_this_machine_has_lost_it_at_once(tmp_path):
    path = tmp_path / "x.lock"
    write(path, pid=dead_pid())
    with Lock(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def is_free_once_silent(path, told=None):
    with pytest.raises(Busy, match=told), Lock(path):
        pass
    os.utime(path, (0, 0))
    with Lock(path):
        pass


def test_another_machines_process_has_lost_it_when_it_is_silent(tmp_path):
    path = tmp_path / "x.lock"
    write(path, host="elsewhere", pid=dead_pid())
    is_free_once_silent(path, told="elsewhere")


def test_a_living_process_that_shows_life_keeps_it(tmp_path):
    path = tmp_path / "x.lock"
    with Lock(path, beat=0.01):
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 5
        while path.stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_one_that_died_before_it_wrote_its_name_is_told_by_its_silence(tmp_path):
    path = tmp_path / "x.lock"
    path.touch()
    is_free_once_silent(path)


def test_who_died_while_taking_over_stops_nobody(tmp_path):
    path = tmp_path / "x.lock"
    write(path, pid=dead_pid())
    write(tmp_path / "x.lock.theirs", pid=dead_pid())
    with pytest.raises(Busy), Lock(path):
        pass
    with Lock(path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_that_was_lost_is_not_given_back_for_another(tmp_path):
    path = tmp_path / "x.lock"
    with Lock(path):
        write(path)
    assert json.loads(path.read_text())["token"] == "theirs"

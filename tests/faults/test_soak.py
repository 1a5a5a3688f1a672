"""`make soak`: dozens of kills at random moments, with a summary of what they did. Takes a quarter of an hour.

XMODAL_SOAK_KILLS (50), XMODAL_SOAK_CACHE_KILLS (20) and XMODAL_SOAK_SEED (0) change how many and which.
"""

from __future__ import annotations

import os
import random
import time

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(3600)]

KILLS = int(os.environ.get("XMODAL_SOAK_KILLS", "50"))
CACHE_KILLS = int(os.environ.get("XMODAL_SOAK_CACHE_KILLS", "20"))
SEED = int(os.environ.get("XMODAL_SOAK_SEED", "0"))
STEPS = 45  # five epochs
RANKS = ((1,), (2,), (1,), (1, 2))
"""How many ranks the attempts of a run have, run by run."""


@pytest.fixture
def say(capsys):
    began = time.monotonic()

    def write(line):
        with capsys.disabled():
            print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)

    return write


def moment(run, draw, seconds):
    """A random moment: of the clock, by the steps done, within a checkpoint, or while the student is written."""
    kind = draw.choices(("clock", "step", "checkpoint", "end"), (3, 4, 4, 1))[0]
    start, last = time.monotonic(), run.last_step()
    after, steps = draw.uniform(0, seconds), draw.randint(1, 12)
    return kind, {
        "clock": lambda: time.monotonic() - start > after,
        "step": lambda: run.last_step() >= last + steps,
        "checkpoint": lambda: run.within_checkpoint() and run.last_step() >= last + steps // 2,
        "end": lambda: run.student.exists() and run.last_step() >= STEPS,
    }[kind]


def test_training_is_killed_again_and_again(training, say):
    draw = random.Random(SEED)
    alone, seconds = {}, {}
    total = {"kills": 0, "torn": 0, "lost": 0, "doubled": 0, "changed": 0, "identical": 0, "compared": 0}
    number = 0
    while total["kills"] < KILLS:
        ranks_of_run = RANKS[number % len(RANKS)]
        for ranks in ranks_of_run:
            if ranks not in alone:
                alone[ranks] = training(f"alone-{ranks}", STEPS)
                start = time.monotonic()
                code, errors = alone[ranks].start(ranks=ranks).finish()
                seconds[ranks] = time.monotonic() - start
                assert code == 0, errors
                say(f"left alone, {ranks} ranks: {seconds[ranks]:.0f} s")
        run = training(f"killed-{number}", STEPS)
        kinds, kills, torn = [], 0, 0
        while total["kills"] + kills < KILLS:
            ranks, workers = draw.choice(ranks_of_run), draw.choice((0, 1, 2))
            kind, when = moment(run, draw, seconds[ranks])
            attempt = run.start(ranks=ranks, workers=workers)
            if not attempt.kill_when(when, after=draw.choice((0, 0, 0.002, 0.01))):
                break
            kills += 1
            kinds.append(f"{kind}@{run.last_step()}")
            torn += run.within_checkpoint()
        for ranks in ranks_of_run:
            code, errors = run.start(ranks=ranks, workers=draw.choice((0, 1, 2))).finish()
            assert code == 0, errors
        account = run.account()
        total["kills"] += kills
        total["torn"] += torn
        total["lost"] += account.lost
        total["doubled"] += account.doubled
        total["changed"] += len(account.changed)
        same = run.weights() == alone[ranks_of_run[0]].weights()
        if len(ranks_of_run) == 1:  # sums of one rank and of two are rounded otherwise: only the order is the same
            total["compared"] += 1
            total["identical"] += same
        told = "identical" if same else "differs, as ranks changed" if len(ranks_of_run) > 1 else "DIFFERS"
        say(
            f"run {number}, ranks {'/'.join(map(str, ranks_of_run))}: {kills} kills ({' '.join(kinds)}); "
            f"{account.lost} lost, {account.doubled} doubled, {len(account.changed)} batches changed; student {told}"
        )
        number += 1
    say(
        f"training: {total['kills']} kills in {number} runs, {total['torn']} of them within a checkpoint; "
        f"{total['lost']} lost, {total['doubled']} doubled, {total['changed']} batches changed; "
        f"{total['identical']} of {total['compared']} students identical"
    )
    assert (total["lost"], total["doubled"], total["changed"]) == (0, 0, 0)
    assert total["identical"] == total["compared"] > 0


def test_a_disk_that_is_full_at_random_moments(training, small_disk, say):
    """Full of something else: whatever is written next fails, be it a checkpoint, a line of metrics or the report."""
    draw = random.Random(SEED)
    alone = training("alone", STEPS)
    assert alone.start().finish()[0] == 0
    disk = small_disk("64m")
    ends = []
    for number in range(2):
        run = training(f"full-{number}", STEPS, folder=disk)
        run.diary_folder = alone.out.parent
        for _ in range(3):
            step = run.last_step() + draw.randint(1, 12)
            attempt = run.start(workers=draw.choice((0, 2)))
            attempt.wait_for(lambda step=step, run=run: run.last_step() >= step)
            with open(disk / "full", "wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(4096))
                except OSError:
                    pass
            code, errors = attempt.finish()
            (disk / "full").unlink()
            ends.append(code)
            if code == 0:
                break
            assert (code, "--resume" in errors, "Traceback" in errors) == (2, True, False), errors
        code, errors = run.start().finish()
        assert code == 0, errors
        assert run.weights() == alone.weights()
        account = run.account()
        assert (account.lost, account.doubled, account.changed) == (0, 0, [])
    say(f"full disk: {ends.count(2)} of {len(ends)} attempts met it and said so; students identical")
    assert ends.count(2) >= 2


def random_moment_of_caching(cache, draw, seconds):
    start, after, done = time.monotonic(), draw.uniform(0, seconds), len(cache.sidecars())
    moments = {
        "clock": lambda: time.monotonic() - start > after,
        "writing": cache.is_writing,
        "locked": cache.is_locked,
        "written": lambda: len(cache.sidecars()) > done,
    }
    return moments[draw.choice(list(moments))]


def test_caching_is_killed_again_and_again(caching, say):
    draw = random.Random(SEED)
    alone = caching("alone")
    start = time.monotonic()
    code, errors = alone.start(workers=2).finish()
    assert code == 0, errors
    seconds = time.monotonic() - start
    kills = number = identical = 0
    while kills < CACHE_KILLS:
        cache, own = caching(f"killed-{number}"), 0
        for _ in range(4):
            jobs = [cache.start(workers=draw.choice((0, 2))) for _ in range(draw.choice((1, 2, 2)))]
            own += sum(job.kill_when(random_moment_of_caching(cache, draw, seconds)) for job in jobs)
        code, errors = cache.start(workers=2).finish()
        assert code == 0, errors
        same = cache.files() == alone.files()
        identical += same
        kills += own
        number += 1
        say(f"cache {number}: {own} kills; files {'identical' if same else 'DIFFER'}")
        if own == 0:
            pytest.fail("every job ended before it was killed")
    say(f"caching: {kills} kills in {number} caches; {identical} of {number} identical, nothing left behind")
    assert identical == number

"""A run that is killed at several moments, and meets a full disk, ends byte for byte like one left alone."""

from __future__ import annotations

import json

import pytest

from xmodal.data.keys import keys

STEPS = 18  # two epochs
NAMES = ("ranks", "rank", "step", "keys")


@pytest.fixture
def undisturbed(training):
    run = training("undisturbed", STEPS)
    code, errors = run.start().finish()
    assert code == 0, errors
    return run


def test_the_account_tells_what_is_lost_doubled_or_changed(training, shards):
    run = training("told", STEPS)
    plan = list(keys(shards, epoch=None, batch_size=10, batches=STEPS))

    def told(*lines):
        run.diary.write_text("".join(json.dumps(dict(zip(NAMES, line, strict=True))) + "\n" for line in lines))
        account = run.account()
        return account.lost, account.doubled, len(account.changed)

    whole = [(1, 0, step, batch) for step, batch in enumerate(plan)]
    assert told(*whole) == (0, 0, 0)
    assert told(*whole[:9], *whole[6:]) == (0, 0, 0)  # killed after nine steps, went on after six
    assert told(*whole[:9], *whole[10:]) == (10, 0, 0)
    assert told(*whole[:9], (1, 0, 9, plan[10]), *whole[10:]) == (10, 10, 1)
    assert told(*whole, (1, 0, 3, plan[3][::-1])) == (0, 0, 1)
    assert told(*whole[:-1], (1, 0, STEPS - 1, [*plan[-1], plan[-1][0]])) == (0, 1, 1)
    own = [list(keys(shards, epoch=None, batch_size=10, batches=STEPS, world_size=2, rank=rank)) for rank in range(2)]
    both = [(2, rank, step, own[rank][step]) for step in range(STEPS) for rank in range(2)]
    assert told(*whole[:5], *both[6:]) == (0, 0, 0)  # one rank, then two
    assert told(*both[:-1]) == (5, 0, 0)


def test_killed_in_a_checkpoint_with_workers_and_on_a_full_disk_nothing_is_lost(training, undisturbed):
    run = training("killed", STEPS)
    assert run.start(workers=2).kill_when(lambda: run.last_step() >= 2 and run.within_checkpoint())
    attempt = run.start(workers=1)
    assert attempt.kill_when(lambda: run.last_step() >= 8)
    before = sorted(path.name for path in run.checkpoints.glob("stage-*"))
    assert before

    code, errors = run.start(max_file_bytes=1_000_000).finish()  # a checkpoint has more, all else has less
    assert (code, "Traceback" in errors) == (2, False), errors
    assert "could not be written" in errors
    assert "--resume" in errors
    assert sorted(path.name for path in run.checkpoints.iterdir()) == before

    code, errors = run.start(workers=2).finish()
    assert code == 0, errors
    assert run.weights() == undisturbed.weights()
    for each in (run, undisturbed):
        account = each.account()
        assert (account.lost, account.doubled, account.changed) == (0, 0, [])
        assert set(account.trained.values()) == {2}
        assert len(account.trained) == 90

"""A run that is killed at several moments, and meets a full disk, ends byte for byte like one left alone."""

from __future__ import annotations

import pytest

STEPS = 18  # two epochs


@pytest.fixture
def undisturbed(training):
    run = training("undisturbed", STEPS)
    code, errors = run.start().finish()
    assert code == 0, errors
    return run


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

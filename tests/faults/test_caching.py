"""Jobs that write a teacher's cache, killed and started again, leave the files that one undisturbed job leaves."""

from __future__ import annotations


def test_two_jobs_at_once_are_killed_and_a_third_finishes(caching):
    alone, killed = caching("alone"), caching("killed")
    code, errors = alone.start(workers=0).finish()
    assert code == 0, errors
    jobs = [killed.start(workers=0), killed.start(workers=1)]
    assert jobs[0].kill_when(killed.is_writing)
    assert jobs[1].kill_when(lambda: bool(killed.sidecars()))
    assert len(killed.sidecars()) < len(alone.sidecars()) == 8
    code, errors = killed.start(workers=0).finish()
    assert code == 0, errors
    assert killed.files() == alone.files()

import hashlib
import json
import signal

import pytest

from xmodal.errors import RunError


def weights(run):
    return hashlib.sha256((run / "student" / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def uninterrupted(tiny_recipe, tmp_path_factory):
    from rich.console import Console

    import xmodal

    out = tmp_path_factory.mktemp("runs") / "uninterrupted"
    return xmodal.distill(tiny_recipe, out=out, console=Console(quiet=True))


def test_a_run_killed_and_interrupted_ends_byte_for_byte_like_one_left_alone(
    tiny_recipe, uninterrupted, command, tmp_path
):
    """Killed without and with workers, stopped by Ctrl-C, then finished: 0, 2, 1 and 0 workers in turn.

    In between it looks at its terms' gradients, which is nobody's business but the log's.
    """
    out = tmp_path / "run"
    command(tiny_recipe, out).signal_after(step=4)
    assert not (out / "summary.json").exists()
    command(tiny_recipe, out, "--resume", "data.num_workers=2", "train.term_gradients_every=2").signal_after(step=8)
    code, _, stderr = command(tiny_recipe, out, "--resume", "data.num_workers=1").signal_after(10, signal.SIGINT)
    assert code == 130
    assert "saved" in stderr
    assert "--resume" in stderr
    assert "Traceback" not in stderr
    code, _, stderr = command(tiny_recipe, out, "--resume").finish()
    assert code == 0, stderr
    assert weights(out) == weights(uninterrupted.folder)
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 15))


def test_a_finished_run_says_so_and_is_left_as_it_is(tiny_recipe, uninterrupted, command):
    before = weights(uninterrupted.folder)
    code, stdout, stderr = command(tiny_recipe, uninterrupted.folder, "--resume").finish()
    assert (code, stderr) == (0, "")
    assert "finished" in stdout
    assert weights(uninterrupted.folder) == before


def test_a_run_folder_in_use_is_refused_and_nothing_in_it_is_lost(tiny_recipe, uninterrupted):
    import xmodal

    before = weights(uninterrupted.folder)
    with pytest.raises(RunError, match=r"--resume.*--out"):
        xmodal.distill(tiny_recipe, out=uninterrupted.folder)
    assert weights(uninterrupted.folder) == before


def test_the_resolved_recipe_is_the_same_run_again(uninterrupted, tmp_path):
    from rich.console import Console

    import xmodal

    again = xmodal.distill(
        uninterrupted.folder / "recipe.resolved.yaml", out=tmp_path / "again", console=Console(quiet=True)
    )
    assert weights(again.folder) == weights(uninterrupted.folder)

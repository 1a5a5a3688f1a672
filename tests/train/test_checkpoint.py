import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from xmodal.errors import RunError
from xmodal.train import checkpoint
from xmodal.train.checkpoint import Place, list_checkpoints, load_checkpoint, save_checkpoint


def trained_state():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "name": "a",
        "none": None,
        "pair": (1, 2.5),
    }


def test_state_survives_the_round_trip_and_an_optimizer_takes_it(tmp_path):
    state = trained_state()
    save_checkpoint(tmp_path, Place(0, 3), state, keep=2)
    loaded = load_checkpoint(tmp_path, Place(0, 3))
    torch.testing.assert_close(loaded["model"], dict(state["model"]), rtol=0, atol=0)
    assert (loaded["name"], loaded["none"], loaded["pair"]) == ("a", None, [1, 2.5])
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    optimizer.load_state_dict(loaded["optimizer"])
    torch.testing.assert_close(optimizer.state_dict()["state"][0]["exp_avg"], state["optimizer"]["state"][0]["exp_avg"])


def test_only_the_newest_are_kept_in_order_of_stage_then_step(tmp_path):
    for place in (Place(0, 100), Place(0, 9), Place(1, 5), Place(1, 10)):
        save_checkpoint(tmp_path, place, {"x": 1}, keep=2)
    assert list_checkpoints(tmp_path) == [Place(1, 5), Place(1, 10)]


def test_a_crash_while_writing_leaves_the_checkpoint_before_it(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, Place(0, 1), {"x": torch.ones(2)}, keep=2)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        save_checkpoint(tmp_path, Place(0, 2), {"x": torch.ones(2)}, keep=2)
    assert list_checkpoints(tmp_path) == [Place(0, 1)]
    assert [path.name for path in tmp_path.iterdir()] == [Place(0, 1).name]


def test_a_partial_folder_of_a_killed_run_is_no_checkpoint_and_in_nobodys_way(tmp_path):
    partial = tmp_path / f".{Place(0, 2).name}.partial"
    partial.mkdir(parents=True)
    (partial / "state.json").write_text("{")
    assert list_checkpoints(tmp_path) == []
    save_checkpoint(tmp_path, Place(0, 2), {"x": 1}, keep=1)
    assert load_checkpoint(tmp_path, Place(0, 2)) == {"x": 1}


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
def test_a_broken_file_is_named_with_the_way_out(tmp_path, name):
    path = save_checkpoint(tmp_path, Place(0, 2), {"x": torch.ones(100)}, keep=1)
    (path / name).write_bytes((path / name).read_bytes()[:20])
    with pytest.raises(RunError, match="Delete that folder"):
        load_checkpoint(tmp_path, Place(0, 2))


def test_nothing_in_a_checkpoint_is_a_pickle(tmp_path):
    path = save_checkpoint(tmp_path, Place(0, 1), trained_state(), keep=1)
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}


def test_what_killed_runs_left_is_removed_at_the_next_checkpoint(tmp_path):
    for step in (7, 8):
        (tmp_path / f".{Place(0, step).name}.partial").mkdir()
    save_checkpoint(tmp_path, Place(0, 9), {"x": 1}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == [Place(0, 9).name]


def test_a_kill_while_an_old_checkpoint_is_removed_leaves_no_half_of_it(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, Place(0, 1), {"x": torch.ones(2)}, keep=1)
    remove = shutil.rmtree

    def killed(path, **options):
        if "step-00000001" in str(path):
            (path / "state.json").unlink()
            raise KeyboardInterrupt
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, Place(0, 2), {"x": torch.ones(2)}, keep=1)
    assert list_checkpoints(tmp_path) == [Place(0, 2)]
    monkeypatch.undo()
    save_checkpoint(tmp_path, Place(0, 3), {"x": 1}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == [Place(0, 3).name]


def test_all_of_a_checkpoint_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    done = []
    flush, rename = checkpoint._flush, Path.rename
    monkeypatch.setattr(checkpoint, "_flush", lambda path: (done.append(path.name), flush(path)))
    monkeypatch.setattr(Path, "rename", lambda path, to: (done.append("renamed"), rename(path, to))[1])
    save_checkpoint(tmp_path, Place(0, 1), {"x": torch.ones(2)}, keep=1)
    partial = f".{Place(0, 1).name}.partial"
    assert done == ["state.safetensors", "state.json", partial, "renamed", tmp_path.name]

import pytest

from xmodal.errors import RunError
from xmodal.recipe import Recipe
from xmodal.train.checkpoint import Place, save_checkpoint
from xmodal.train.folder import RunFolder

RECIPE = {
    "student": {"name": "image", "model": "resnet18"},
    "data": {"train": "x.tar"},
    "objective": [{"loss": "feature_cosine", "student": "image.embedding", "teacher": "text.embedding"}],
    "teacher": {"name": "sentence", "model": "m"},
    "train": {"max_steps": 5},
}


def recipe(**train):
    return Recipe(**{**RECIPE, "train": {**RECIPE["train"], **train}})


def test_a_folder_that_holds_anything_is_refused_with_both_ways_out(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"--resume.*--out"):
        RunFolder(tmp_path).create(recipe())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["recipe.resolved.yaml", "env.json"])
def test_a_kill_while_the_first_files_are_written_is_no_dead_end(tmp_path, name):
    folder = RunFolder(tmp_path)
    if name == "env.json":
        folder.create(recipe())
    (tmp_path / f".{name}.partial").write_text("half")
    folder.create(recipe())
    folder.reopen(recipe())


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(RunError, match="not empty"):
        RunFolder(tmp_path / "runs").create(recipe())


def test_resuming_where_nothing_was_begun_says_so(tmp_path):
    with pytest.raises(RunError, match="no run to resume"):
        RunFolder(tmp_path / "nothing").reopen(recipe())


def test_changed_settings_are_listed_with_both_values(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create(recipe(seed=1))
    with pytest.raises(RunError, match=r"train\.seed: 1 when it began, 2 now"):
        folder.reopen(recipe(seed=2))


@pytest.mark.parametrize("change", [{"checkpoint_every": 7}, {"device": "cpu"}, {"evaluate_every": 3}])
def test_settings_that_change_nothing_learned_may_change(tmp_path, change):
    folder = RunFolder(tmp_path / "run")
    folder.create(recipe())
    folder.reopen(recipe(**change))


def test_a_folder_that_another_process_holds_is_in_use(tmp_path):
    with (
        RunFolder(tmp_path / "run").in_use(),
        pytest.raises(RunError, match="in use"),
        RunFolder(tmp_path / "run").in_use(),
    ):
        pass
    with RunFolder(tmp_path / "run").in_use():
        RunFolder(tmp_path / "run").create(recipe())


def test_what_a_run_left_before_its_first_checkpoint_is_in_nobodys_way(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create(recipe(seed=1))
    folder.log.write_text("the teacher was not found")
    (folder.checkpoints / ".stage-0-step-00000001.partial").mkdir(parents=True)
    folder.create(recipe(seed=2))
    assert "seed: 2" in folder.recipe.read_text()
    assert not folder.log.exists()


def test_a_run_with_a_checkpoint_or_another_file_is_not_taken_for_a_false_start(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create(recipe())
    save_checkpoint(folder.checkpoints, Place(0, 1), {"x": 1}, keep=1)
    with pytest.raises(RunError, match="not empty"):
        folder.create(recipe())
    other = RunFolder(tmp_path / "other")
    other.create(recipe())
    (other.path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty"):
        other.create(recipe())

import json

from xmodal.train.checkpoint import Place
from xmodal.train.folder import RunFolder
from xmodal.train.records import Records


def lines(folder):
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()]


def test_lines_after_the_checkpoint_and_half_lines_go_when_a_run_is_resumed(tmp_path):
    folder = RunFolder(tmp_path)
    with Records(folder, Place(0, 0)) as records:
        for step in (1, 2, 3):
            records.write(Place(0, step), {"loss": float(step)})
    with folder.metrics.open("a") as file:
        file.write('{"stage": 0, "st')
    with Records(folder, Place(0, 2)) as records:
        records.write(Place(0, 3), {"loss": 30.0})
    assert [(line["step"], line["loss"]) for line in lines(folder)] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_what_is_not_finite_is_null_so_that_any_json_reader_takes_the_file(tmp_path):
    folder = RunFolder(tmp_path)
    with Records(folder, Place(0, 0)) as records:
        records.write(Place(0, 1), {"loss": float("nan"), "terms": {"a": float("inf"), "b": 1.0}})
    assert lines(folder) == [{"stage": 0, "step": 1, "loss": None, "terms": {"a": None, "b": 1.0}}]


def test_tensorboard_gets_the_same_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = RunFolder(tmp_path)
    with Records(folder, Place(0, 0)) as records:
        records.write(Place(0, 1), {"loss": 2.0, "terms": {"kl": 0.5}})
        records.write(Place(0, 2), {"evaluation": {"val": {"recall": 0.25}}})
    board = EventAccumulator(str(folder.tensorboard))
    board.Reload()
    assert set(board.Tags()["scalars"]) == {"loss", "terms/kl", "evaluation/val/recall"}
    assert board.Scalars("terms/kl")[0].value == 0.5

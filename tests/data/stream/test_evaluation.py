from __future__ import annotations

import io
import multiprocessing
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from xmodal.data.stream import EvalStream
from xmodal.errors import DataError


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_gives_every_sample_once_in_the_order_of_the_shards(shards, num_workers, pixels, picture):
    stream = EvalStream(shards, preprocess={"m": pixels()}, batch_size=20, num_workers=num_workers)
    for _ in range(2):
        batches = list(stream)
        assert [len(batch["key"]) for batch in batches] == [20, 20, 12]
        assert [key for batch in batches for key in batch["key"]] == [f"{number:03d}" for number in range(52)]
        assert torch.cat([batch["label"] for batch in batches]).tolist() == list(range(52))
        assert [len(text) for batch in batches for text in batch["text"]] == list(range(1, 53))
        assert {tuple(size) for batch in batches for size in batch["views"]["m"]["size"].tolist()} == {(10, 8)}
        expected = np.array(Image.open(io.BytesIO(picture(51))).resize((6, 6)))
        assert np.array_equal(batches[-1]["views"]["m"]["pixels"][-1], expected)
    assert (stream.num_samples, len(stream), stream.num_bad) == (52, 3, 0)
    assert multiprocessing.active_children() == []


def test_evaluation_leaves_broken_samples_out_and_counts_them(tmp_path, pixels, lengths, write):
    shards = write(tmp_path / "eval", [30], {3, 20, 21, 22, 23, 24})
    stream = EvalStream(shards, preprocess={"m": pixels()}, batch_size=5)
    for _ in range(2):
        assert [len(batch["key"]) for batch in stream] == [4, 5, 5, 5, 5]
        assert stream.num_bad == 6
        assert [bad.key for bad in stream.bad_samples] == ["003", "020", "021", "022", "023", "024"]
    texts = EvalStream(shards, preprocess={"m": lengths()}, batch_size=5)  # pictures are not looked at
    assert sum(len(batch["key"]) for batch in texts) == 30


def test_text_and_label_are_given_where_every_sample_has_them(tmp_path, pixels, picture):
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        for name, data in (
            ("a.png", picture(0)),
            ("a.cls", b"1"),
            ("b.png", picture(1)),
            ("c.png", picture(2)),
            ("c.txt", b"see"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    stream = EvalStream(str(tmp_path / "some.tar"), preprocess={"m": pixels()}, batch_size=1)
    assert [sorted(batch) for batch in stream] == [
        ["key", "label", "views"],
        ["key", "views"],
        ["key", "text", "views"],
    ]
    with pytest.raises(DataError, match="batch_size is 0"):
        EvalStream(str(tmp_path / "some.tar"), preprocess={}, batch_size=0)

"""Training from a server is training from the folder."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from xmodal.data import EvalStream, TrainStream


class Pixels:
    """The smallest preprocessing there is: the picture as numbers, and the text's length."""

    fields = ("image", "text")

    def __call__(self, sample):
        image = torch.frombuffer(bytearray(sample["image"].resize((8, 8)).tobytes()), dtype=torch.uint8)
        return image, len(sample["text"])

    def collate(self, items):
        images, lengths = zip(*items, strict=True)
        return {"image": torch.stack(images), "text.length": torch.tensor(lengths)}


def plain(batch):
    view = batch["views"]["model"]
    return batch["key"], batch["text"], view["image"].tolist(), view["text.length"].tolist()


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("failing", [False, True])
def test_the_batches_over_http_are_those_of_the_folder(server, folder, fault, num_workers, failing):
    def batches(shards, num_workers):
        stream = TrainStream(
            shards, preprocess={"model": Pixels()}, batch_size=16, seed=3, image_size=16, num_workers=num_workers
        )
        return stream.plan_hash, [plain(batch) for batch in islice(stream, 10)]

    expected = batches(folder, 0)
    if failing:
        for number in range(5):
            server.fail(f"train-{number:03d}.tar", fault("drop", 30_000), fault("status", 503))
    assert batches(server.address, num_workers) == expected
    for number in range(5):
        asked = server.asked(f"train-{number:03d}.tar")
        assert asked == ([None, "bytes=30000-", "bytes=30000-"] if failing else [None])  # once for all workers


def test_evaluation_over_http_is_that_of_the_folder(server, folder):
    def batches(shards):
        stream = EvalStream(shards, preprocess={"model": Pixels()}, batch_size=50, num_workers=1)
        return [plain(batch) for batch in stream]

    assert batches(server.address) == batches(folder)

"""Memory for batches: used again only when nobody holds what lay in it, and shared where a worker asks."""

from __future__ import annotations

import gc
import signal

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from xmodal.data.memory import empty_batch, release

SHAPE = (4, 3, 64, 64)


@pytest.fixture(autouse=True)
def nothing_kept():
    release()
    handler = signal.getsignal(signal.SIGCHLD)
    yield
    release()
    signal.signal(signal.SIGCHLD, handler)  # torch's, which a DataLoader sets, raises in whatever runs then


def address(tensor):
    return tensor.untyped_storage().data_ptr()


def test_memory_that_a_tensor_still_uses_is_not_given_out_again():
    first = empty_batch(SHAPE, torch.float32).fill_(1)
    part = first[2].mT  # a view alone keeps it
    del first
    gc.collect()
    second = empty_batch(SHAPE, torch.float32).fill_(2)
    assert address(second) != address(part)
    assert (part == 1).all()


def test_memory_that_a_graph_still_needs_is_not_given_out_again():
    weight = torch.ones(SHAPE, requires_grad=True)
    loss = (weight * empty_batch(SHAPE, torch.float32).fill_(3)).sum()
    empty_batch(SHAPE, torch.float32).fill_(5)
    loss.backward()
    assert (weight.grad == 3).all()


def test_memory_that_nobody_uses_is_given_out_again():
    first = empty_batch(SHAPE, torch.float32)
    there = address(first)
    del first
    assert address(empty_batch(SHAPE, torch.float32)) == there
    assert empty_batch((2, 5), torch.uint8).shape == (2, 5)  # of another size: memory of its own
    assert empty_batch((0, 3, 8, 8), torch.float32).shape == (0, 3, 8, 8)


class Batches(Dataset):
    def __getitem__(self, number):
        batch = empty_batch(SHAPE, torch.uint8).fill_(number)
        return batch, batch.is_shared()


def test_a_worker_gets_shared_memory_and_its_batches_stay_as_they_are():
    loader = DataLoader(Batches(), batch_size=None, sampler=range(6), num_workers=2)
    received = list(loader)
    assert all(shared for _, shared in received)
    assert [batch.unique().tolist() for batch, _ in received] == [[number] for number in range(6)]

import torch
from hypothesis import given
from hypothesis import strategies as st

from xmodal.train.batches import num_rows, split, to_device


def batch_of(rows):
    return {
        "key": [str(row) for row in range(rows)],
        "label": torch.arange(rows),
        "views": {"student": {"image": torch.arange(rows * 2).view(rows, 2)}},
    }


@given(st.integers(1, 40), st.integers(1, 50))
def test_parts_are_the_batch_in_order_and_of_even_size(rows, parts):
    cut = split(batch_of(rows), parts)
    sizes = [num_rows(part) for part in cut]
    assert len(cut) == min(parts, rows)
    assert max(sizes) - min(sizes) <= 1
    assert [key for part in cut for key in part["key"]] == batch_of(rows)["key"]
    joined = torch.cat([part["views"]["student"]["image"] for part in cut])
    torch.testing.assert_close(joined, batch_of(rows)["views"]["student"]["image"])
    assert all(len(part["label"]) == num_rows(part) for part in cut)


def test_tensors_at_any_depth_go_to_the_device_and_the_rest_stays():
    moved = to_device(batch_of(2), torch.device("meta"))
    assert moved["views"]["student"]["image"].device.type == "meta"
    assert moved["key"] == ["0", "1"]

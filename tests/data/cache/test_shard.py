"""What is stored is what the teacher says of the very sample that training would show it, to float16."""

from __future__ import annotations

import pytest
import torch

from xmodal.adapters import TEACHERS
from xmodal.adapters.encoder import Encoder
from xmodal.data.cache.contract import TopK, changes_of
from xmodal.data.cache.job import cache
from xmodal.data.cache.shard import cache_shard, describe_teacher
from xmodal.data.cache.sidecar import KEYS, Sidecar
from xmodal.data.reading import Reading
from xmodal.errors import DataError
from xmodal.recipe import Augment

CHANGES = Augment(crop_scale=(0.4, 0.8), flip=0.5, color_jitter=0.3)


def stored(job, number=0):
    teacher = job.make_teacher()
    request = job.request(describe_teacher(teacher, job.teacher))
    assert cache_shard(teacher, request, number) == "written"
    assert cache_shard(teacher, request, number) == "finished"
    return teacher, Sidecar(request.sidecar(number))


def online(job, teacher, row, view, tap):
    """One sample by itself, read as a training stream reads it."""
    raw = job.shards.read(row)
    sample = job.reading(raw, fields=teacher.preprocess.fields, text=job.text, view=view)
    inputs = teacher.preprocess.collate([teacher.preprocess(sample)])
    with torch.no_grad():
        return teacher(inputs, [tap])[tap][0]


def test_every_view_of_a_picture_is_the_one_that_training_shows(job):
    one = job(reading=Reading(seed=3, image_size=40, augment=CHANGES, views=3))
    teacher, sidecar = stored(one)
    features = sidecar.tensors["image.embedding"]
    assert features.shape == (9, 3, teacher.embed_dim)
    assert features.dtype == torch.float16
    for row in range(9):
        for view in range(3):
            expected = online(one, teacher, row, view, "image.embedding")
            torch.testing.assert_close(features[row, view].float(), expected, rtol=2e-3, atol=1e-4)
    assert (features[:, 0].float() - features[:, 1].float()).abs().max() > 0.01


def test_one_view_is_stored_where_nothing_is_augmented(job):
    _, sidecar = stored(job(reading=Reading(image_size=40, views=5)))
    assert sidecar.tensors["image.embedding"].shape[1] == 1


def test_texts_have_one_view_whatever_becomes_of_the_pictures(job):
    teacher, sidecar = stored(job("text.embedding", "text", reading=Reading(augment=CHANGES)))
    assert sidecar.tensors["text.embedding"].shape == (9, 1, teacher.embed_dim)


def test_a_list_of_captions_has_a_view_each(job):
    one = job("text.embedding", "text", text="json.captions", reading=Reading(seed=2, views=4))
    teacher, sidecar = stored(one)
    features = sidecar.tensors["text.embedding"]
    assert features.shape[1] == 4
    for row in range(9):
        for view in range(4):
            expected = online(one, teacher, row, view, "text.embedding")
            torch.testing.assert_close(features[row, view].float(), expected, rtol=2e-3, atol=1e-4)
    assert not torch.equal(features[:, 0], features[:, 1])


def test_captions_without_end_are_refused(job):
    with pytest.raises(DataError, match=r"data.views=10"):
        stored(job("text.embedding", "text", text="json.captions"))


def test_pictures_changed_without_end_are_refused(job):
    with pytest.raises(DataError, match=r"data.views=10"):
        stored(job(reading=Reading(augment=CHANGES)))


def test_mixed_pictures_are_refused(job):
    with pytest.raises(DataError, match="mixup"):
        stored(job(reading=Reading(augment=Augment(mixup=0.2), views=2)))


def test_states_of_tokens_bring_their_mask_and_are_padded_to_the_shards_longest(job):
    one = job("text.hidden.-1 text.attention.0", "text")
    teacher, sidecar = stored(one)
    assert set(sidecar.taps) == {"text.hidden.6", "text.attention.0", "text.mask"}
    mask = sidecar.tensors["text.mask"][:, 0]
    assert mask.dtype == torch.bool
    assert len(set(mask.sum(1).tolist())) > 1
    hidden = sidecar.tensors["text.hidden.6"][:, 0].float()
    attention = sidecar.tensors["text.attention.0"][:, 0].float()
    assert hidden[~mask].eq(0).all()
    for row in range(9):
        length = int(mask[row].sum())
        expected = online(one, teacher, row, 0, "text.hidden.6")
        torch.testing.assert_close(hidden[row, :length], expected, rtol=3e-3, atol=1e-3)
        expected = online(one, teacher, row, 0, "text.attention.0")
        torch.testing.assert_close(attention[row, :, :length, :length], expected, rtol=3e-3, atol=1e-3)


def test_the_likeliest_classes_are_what_top_k_kl_takes(job):
    from xmodal.losses import LOSSES

    names = ["logits.values", "logits.indices", "logits.tail"]
    one = job(" ".join(names), top_k=TopK(20, 2.0))
    teacher, sidecar = stored(one)
    values, indices, tail = (sidecar.tensors[name][:, 0] for name in names)
    assert (values.dtype, indices.dtype) == (torch.float16, torch.int32)
    logits = torch.stack([online(one, teacher, row, 0, "logits") for row in range(9)])
    expected = (logits / 2).log_softmax(-1)
    torch.testing.assert_close(values.float(), expected.gather(1, indices.long()), rtol=2e-3, atol=2e-3)
    total = values.float().exp().sum(1) + tail.float().exp()
    torch.testing.assert_close(total, torch.ones(9), rtol=0, atol=2e-3)
    loss = LOSSES["top_k_kl"].function(
        logits, values.float(), indices.long(), tail.float(), temperature=2.0, cached_temperature=2.0
    )
    assert abs(loss.item()) < 5e-3


def test_the_likeliest_classes_are_added_beside_embeddings(job):
    names = ("logits.values", "logits.indices", "logits.tail")
    cache([job("image.embedding")])
    assert cache([job(" ".join(names), top_k=TopK(5))]).count("written") == 3
    assert cache([job("image.embedding", top_k=TopK(7))]).count("finished") == 3  # they are none of its business
    with pytest.raises(DataError, match=r"foreign cache.*the top 5 at temperature 1, not as the top 7"):
        cache([job(" ".join(names), top_k=TopK(7))])


@pytest.mark.parametrize(
    ("setting", "changes"), [({"time_masks": 2, "time_mask": 0.2}, False), ({"audio_seconds": 2.0}, True)]
)
def test_masks_of_spectrograms_are_none_of_a_frozen_teachers_business(setting, changes):
    assert bool(changes_of(setting, "audio")) == changes


def test_classes_need_to_know_how_many(job):
    with pytest.raises(DataError, match="--top-k"):
        stored(job("logits.values"))


class Loud(Encoder):
    """Says of every picture its mean colour, times ``factor``; NaN for the sample called ``broken``."""

    name, modalities, embed_dim = "loud", ("image",), 3

    def __init__(self, factor=1.0, broken=None):
        super().__init__()
        self.factor, self.preprocess = factor, Means(broken)
        self.model = torch.nn.Identity()

    def taps(self):
        return ("image.embedding", "image.other")

    def compute(self, inputs, taps):
        return {tap: inputs["image"] * (self.factor if tap == "image.embedding" else 1) for tap in taps}

    def identity(self):
        return f"loud{self.factor:g}".replace("-", "m")


class Means:
    fields = ("image",)

    def __init__(self, broken):
        self.broken = broken

    def __call__(self, sample):
        value = torch.tensor(sample["image"].resize((1, 1)).getpixel((0, 0)), dtype=torch.float32) + 1
        return {"image": value * float("nan") if sample["key"] == self.broken else value}

    def collate(self, items):
        return {"image": torch.stack([item["image"] for item in items])}


@pytest.fixture
def loud(job, monkeypatch):
    monkeypatch.setitem(TEACHERS._entries, "loud", lambda factor=1.0: Loud(factor))

    def run(factor=1.0, broken=None, number=0):
        one = job("image.embedding image.other", {"name": "loud", "factor": factor})
        teacher = Loud(factor, broken)
        request = one.request(describe_teacher(teacher, one.teacher))
        cache_shard(teacher, request, number)
        return one, Sidecar(request.sidecar(number))

    return run


@pytest.mark.parametrize("factor", [1e5, 1e-8])
def test_what_float16_cannot_hold_is_kept_in_float32(loud, factor):
    _, sidecar = loud(factor)
    assert sidecar.facts["taps"]["image.embedding"]["dtype"] == "float32"
    assert sidecar.facts["taps"]["image.other"]["dtype"] == "float16"
    expected = sidecar.tensors["image.other"].double() * factor
    torch.testing.assert_close(sidecar.tensors["image.embedding"].double(), expected, rtol=2e-3, atol=0)


def test_what_is_not_finite_is_an_error_that_names_sample_and_tap(loud, job, folder):
    key = job().shards.key(6)
    with pytest.raises(DataError, match=rf"image.embedding for sample '{key}'"):
        loud(broken=key)
    assert not list(folder.glob("*.safetensors*"))
    assert not list(folder.glob(".*.partial"))


def test_a_sample_that_cannot_be_decoded_is_named_and_the_others_are_stored(loud, job, folder, monkeypatch):
    keys = [job().shards.key(row) for row in range(9)]
    read = type(job().shards).read

    def spoiled(self, sample):
        raw = read(self, sample)
        if raw.key in (keys[2], *keys[4:8]):  # one of a batch, and a whole batch
            raw.members["png"] = b"no picture"
        return raw

    monkeypatch.setattr(type(job().shards), "read", spoiled)
    _, sidecar = loud()
    assert set(sidecar.facts["bad"]) == {keys[2], *keys[4:8]}
    features = sidecar.tensors["image.embedding"][:, 0]
    assert features.ne(0).any(1).tolist() == [row not in (2, 4, 5, 6, 7) for row in range(9)]


def test_rows_are_found_by_key(loud, job):
    _, sidecar = loud()
    keys = [job().shards.key(row) for row in range(9)]
    assert [sidecar.row_of(key) for key in keys] == list(range(9))
    assert sidecar.row_of("nobody") is None
    assert sidecar.tensors[KEYS].dtype == torch.int64


def test_a_tap_that_is_added_keeps_what_was_there(job):
    cache([job("image.embedding")])
    one = job("logits")
    cache([one])
    teacher = one.make_teacher()
    sidecar = Sidecar(one.request(describe_teacher(teacher, one.teacher)).sidecar(0))
    assert set(sidecar.taps) == {"image.embedding", "logits"}


def test_more_views_are_added_and_fewer_are_enough(job):
    def reading(views):
        return Reading(seed=1, image_size=32, augment=CHANGES, views=views)

    assert cache([job(reading=reading(2))]).count("written") == 3
    assert cache([job(reading=reading(3))]).count("written") == 3
    assert cache([job(reading=reading(2))]).count("finished") == 3

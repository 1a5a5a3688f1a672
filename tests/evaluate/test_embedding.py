from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from xmodal.errors import AdapterError, EvaluationError
from xmodal.evaluate import embed, embed_texts


def test_every_sample_is_embedded_once_in_the_order_of_the_shards(make_shard, make_encoder, animals, vectors):
    make_shard(animals[:33], "shard-000000")
    folder = make_shard(animals[33:], "shard-000001").rpartition("/")[0]
    encoder = make_encoder()
    found = embed(encoder, f"{folder}/shard-*.tar", modality="image", batch_size=7)
    assert found.keys == [row["key"] for row in animals]
    assert found.texts == [row["text"] for row in animals]
    assert found.labels == [None] * len(animals)
    assert found.embeddings.dtype == torch.float32
    np.testing.assert_allclose(
        found.embeddings, vectors(encoder, "image", [row["image"] for row in animals]), atol=1e-6
    )


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (7, 0), (60, 0), (16, 2)])
def test_embeddings_do_not_depend_on_batch_size_or_workers(make_shard, make_encoder, animals, batch_size, num_workers):
    shards, encoder = make_shard(animals), make_encoder()
    expected = embed(encoder, shards, modality="image")
    found = embed(encoder, shards, modality="image", batch_size=batch_size, num_workers=num_workers)
    assert found.keys == expected.keys
    assert found.texts == expected.texts
    torch.testing.assert_close(found.embeddings, expected.embeddings, atol=1e-6, rtol=0)


def test_mode_and_random_states_are_as_before(make_shard, make_encoder, animals):
    shards, encoder = make_shard(animals), make_encoder(("image", "text"))
    encoder.train()
    encoder.norm.eval()  # frozen in a model in train mode
    state = encoder.state_hash()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.random(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    embed(encoder, shards, modality="image", num_workers=1)
    embed_texts(encoder, ["a", "b"])
    assert (random.random(), np.random.random(), torch.rand(1).item()) == expected
    assert (encoder.training, encoder.dropout.training, encoder.norm.training) == (True, True, False)
    assert encoder.state_hash() == state
    assert torch.is_grad_enabled()


def test_mode_is_restored_after_an_error_too(make_shard, make_encoder, animals):
    encoder = make_encoder(broken=lambda features: features * torch.nan).train()
    with pytest.raises(EvaluationError):
        embed(encoder, make_shard(animals), modality="image")
    assert encoder.training
    assert encoder.dropout.training


def test_a_frozen_encoder_stays_in_eval_mode(make_shard, make_encoder, animals):
    encoder = make_encoder().freeze()
    embed(encoder, make_shard(animals), modality="image")
    assert not any(module.training for module in encoder.modules())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_embedding_that_is_not_finite_names_the_first_key(make_shard, make_encoder, animals, value):
    shards = make_shard(animals)
    healthy = make_encoder(width=4)
    limit = sorted(healthy.encode(image=[picture_of(row) for row in animals])["image.embedding"][:, 0].tolist())[-3]
    broken = make_encoder(width=4, broken=lambda features: torch.where(features[:, :1] >= limit, value, features))
    first = next(
        row["key"] for row in animals if healthy.encode(image=[picture_of(row)])["image.embedding"][0, 0] >= limit
    )
    with pytest.raises(EvaluationError, match=f"NaN or infinity for {first}"):
        embed(broken, shards, modality="image", batch_size=60)


def picture_of(row):
    from PIL import Image

    return Image.fromarray(np.random.default_rng(row["image"]).integers(0, 256, (4, 4, 3), dtype=np.uint8))


def test_a_text_that_embeds_to_nan_is_named(make_encoder):
    encoder = make_encoder(("text",), broken=lambda features: features * torch.nan)
    with pytest.raises(EvaluationError, match="'a cat'"):
        embed_texts(encoder, ["a cat"])


def test_texts_come_back_in_their_order_whatever_their_length(make_encoder, vectors):
    encoder = make_encoder(("text",))
    texts = ["a long text about a cat", "b", "medium text", "b", "cc"]
    np.testing.assert_allclose(embed_texts(encoder, texts, batch_size=2), vectors(encoder, "text", texts), atol=1e-6)


def test_the_text_side_can_be_embedded_sample_by_sample(make_shard, make_encoder, animals, vectors):
    encoder = make_encoder(("text",))
    found = embed(encoder, make_shard(animals), modality="text", batch_size=13)
    np.testing.assert_allclose(found.embeddings, vectors(encoder, "text", [row["text"] for row in animals]), atol=1e-6)


def test_a_two_tower_encoder_needs_only_the_modality_it_is_asked_for(make_shard, make_encoder, animals):
    rows = [{key: value for key, value in row.items() if key != "text"} for row in animals]
    found = embed(make_encoder(("image", "text")), make_shard(rows), modality="image")
    assert (len(found.keys), found.bad, found.texts[0]) == (60, 0, None)


def test_texts_and_labels_are_none_only_where_a_sample_has_none(make_shard, make_encoder):
    rows = [
        {"key": "a", "image": 1, "text": " both \n", "cls": 7},
        {"key": "b", "image": 2},
        {"key": "c", "image": 3, "text": "text only"},
        {"key": "d", "image": 4, "cls": 0},
    ]
    for batch_size in (1, 2, 4):
        found = embed(make_encoder(), make_shard(rows), modality="image", batch_size=batch_size)
        assert found.texts == ["both", None, "text only", None]
        assert found.labels == [7, None, None, 0]


def test_samples_that_do_not_decode_are_left_out_counted_and_named(make_shard, make_encoder, animals, caplog):
    rows = [*animals[:5], {"key": "broken", "bytes": b"not a picture", "text": "x"}, *animals[5:]]
    found = embed(make_encoder(), make_shard(rows), modality="image", batch_size=4)
    assert found.keys == [row["key"] for row in animals]
    assert found.bad == 1
    assert "1 of 61 samples are left out; the first is 'broken' of" in caplog.text


def test_shards_without_the_modality_are_an_error_that_says_where_to_look(make_shard, make_encoder, animals):
    shards = make_shard([{key: value for key, value in row.items() if key != "text"} for row in animals])
    with pytest.raises(EvaluationError, match=r"None of the 60 samples .* can be read as text .*xmodal data check"):
        embed(make_encoder(("text",)), shards, modality="text")


def test_a_modality_or_tap_that_the_encoder_lacks_is_refused(make_shard, make_encoder, animals):
    shards, encoder = make_shard(animals), make_encoder()
    with pytest.raises(EvaluationError, match="does not read text; it reads image"):
        embed(encoder, shards, modality="text")
    with pytest.raises(EvaluationError, match="does not read text"):
        embed_texts(encoder, ["a"])
    with pytest.raises(EvaluationError, match=r"not one vector a sample but of shape \(2, 16\)"):
        embed(encoder, shards, modality="image", tap="image.tokens")
    with pytest.raises(AdapterError, match=r"image\.embeding"):
        embed(encoder, shards, modality="image", tap="image.embeding")


def test_another_tap_can_be_asked_for(make_shard, make_encoder, animals, vectors):
    encoder = make_encoder()
    found = embed(encoder, make_shard(animals), modality="image", tap="image.raw")
    expected = vectors(encoder, "image", [row["image"] for row in animals], tap="image.raw")
    np.testing.assert_allclose(found.embeddings, expected, atol=1e-6)

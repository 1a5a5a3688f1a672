"""Sequences of a cache look as the tokenizer would have padded them, whatever shards they come from."""

from __future__ import annotations

import torch

from xmodal.data.cache.job import cache
from xmodal.data.cache.recipe import jobs_of, open_cached
from xmodal.data.cache.taps import blank_padding
from xmodal.data.stream_sources import open_sources
from xmodal.recipes import load_recipe

ASKED = ("text.hidden.-1", "text.attention.0", "text.mask")


def test_a_batch_over_shards_has_the_shapes_and_numbers_of_the_teacher_itself(folder):
    recipe = load_recipe(
        {
            "teacher": {"name": "sentence", "model": "sentence-transformers/all-MiniLM-L6-v2", "cached": True},
            "student": {"name": "text", "tokenizer": "sentence-transformers/all-MiniLM-L6-v2", "num_layers": 1},
            "data": {"train": str(folder / "*.tar")},
            "objective": [
                {"loss": "feature_mse", "student": "text.embedding", "teacher": "text.embedding"},
                {
                    "loss": "attention_kl",
                    "student": "text.attention.0",
                    "teacher": "text.attention.0",
                    "mask": "text.mask",
                },
                {"loss": "feature_mse", "student": "text.hidden.0", "teacher": "text.hidden.-1", "mask": "text.mask"},
            ],
            "train": {"max_steps": 1, "batch_size": 4, "device": "cpu"},
        }
    )
    cache(jobs_of(recipe))
    (source,) = open_sources(recipe.data.train)
    teacher = open_cached(recipe, "teacher", (source,))
    real, shards = teacher.real(), source.shards
    for rows in ([0, 1, 2], [3, 10, 20], [22, 5]):
        samples = [
            {
                "key": shards.key(row),
                "shard": shards.names[shards.locate(row)[0]],
                "view": 0,
                "text": shards.read(row).members["txt"].decode().strip(),
            }
            for row in rows
        ]
        found = teacher(teacher.preprocess.collate([teacher.preprocess(sample) for sample in samples]), ASKED)
        with torch.no_grad():
            expected = real(real.preprocess.collate([real.preprocess(sample) for sample in samples]), ASKED)
        assert torch.equal(found["text.mask"], expected["text.mask"])
        expected = blank_padding({name: expected[name] for name in ASKED})
        for tap in ASKED[:2]:
            assert found[tap].shape == expected[tap].shape
            torch.testing.assert_close(found[tap], expected[tap], rtol=3e-3, atol=2e-3)

"""Streams of several sources that do not hold the same things."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.stream.conftest import Lengths, Pixels, png
from xmodal.data import open_sources
from xmodal.data.stream import TrainStream
from xmodal.errors import DataError

MODELS = {"image": Pixels(), "text": Lengths()}


def write(
    folder: Path,
    name: str,
    count: int,
    *,
    image: bool = True,
    text: bool = True,
    label: bool = False,
    stray: bool = False,
    broken: int | None = None,
    file: str = "",
) -> str:
    """Samples of one kind; ``stray``: every fifth but the first has a text all the same."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{file or name}.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            members = {"png": png(number)} if image else {}
            members |= {"png": b"no picture"} if number == broken else {}
            members |= {"txt": f"{name} {number}".encode()} if text or (stray and number % 5 == 4) else {}
            members |= {"cls": str(number).encode()} if label else {}
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{name}-{number:03d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return str(path)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    return {
        "pairs": {"shards": write(folder, "pairs", 40), "weight": 3},
        "words": {"shards": write(folder, "words", 13, image=False), "weight": 1},
        "classes": {"shards": write(folder, "classes", 21, text=False, label=True), "weight": 4},
    }


def batches(stream, count):
    with closing(iter(stream)) as running:
        return list(islice(running, count))


def test_what_a_source_has_is_seen_from_its_first_sample_or_said(sources):
    opened = {source.name: source for source in open_sources(sources)}
    assert {name: set(source.fields) for name, source in opened.items()} == {
        "pairs": {"image", "text"},
        "words": {"text"},
        "classes": {"image", "label"},
    }
    assert open_sources({"a": sources["pairs"]["shards"]})[0].weight == 40  # its number of samples
    assert open_sources({"a": {**sources["pairs"], "fields": ["image"]}})[0].fields == {"image"}
    with pytest.raises(DataError, match=r"'words-000'.*no picture, sound or text 'json\.caption'"):
        open_sources({"words": sources["words"]}, "json.caption")


def test_a_whole_batch_of_one_source_has_views_of_what_the_source_has(sources):
    stream = TrainStream(sources, preprocess=MODELS, batch_size=4, image_size=8)
    for batch in batches(stream, 40):
        (source,) = {key.partition("-")[0] for key in batch["key"]}
        has = {name for name in MODELS if batch["views"][name]}
        present = batch.get("present", {})
        if source == "pairs":
            assert has == {"image", "text"}
            assert set(present) == {"label"}
        elif source == "words":
            assert has == {"text"}
            assert not present["image"].any()
            assert "label" not in batch
        else:
            assert has == {"image"}
            assert not present["text"].any()
            assert "label" not in present
            assert [f"classes-{label:03d}" for label in batch["label"].tolist()] == batch["key"]


def test_a_mixed_batch_says_which_row_has_what(sources):
    stream = TrainStream(sources, preprocess=MODELS, batch_size=16, mix="samples", image_size=8)
    batch = batches(stream, 1)[0]
    origin = [key.partition("-")[0] for key in batch["key"]]
    assert Counter(origin) == {"pairs": 6, "words": 2, "classes": 8}
    assert batch["present"]["image"].tolist() == [name != "words" for name in origin]
    assert batch["present"]["text"].tolist() == [name != "classes" for name in origin]
    assert batch["present"]["label"].tolist() == [name == "classes" for name in origin]
    assert (batch["label"] == -1).tolist() == [name != "classes" for name in origin]
    lengths = batch["views"]["text"]["length"]
    assert len(lengths) == 16
    assert lengths[origin.index("words")] > 0
    assert lengths[origin.index("classes")] == 0


@pytest.mark.parametrize("said", [None, ["image"]])
@pytest.mark.parametrize("mix", ["batches", "samples"])
def test_what_a_sample_has_beyond_its_source_is_left_out(sources, tmp_path, said, mix):
    """Else ranks would not agree on which terms a batch has."""
    plain = {"shards": write(tmp_path, "plain", 30, text=False, stray=True), **({"fields": said} if said else {})}
    stream = TrainStream({"plain": plain, "words": sources["words"]}, preprocess=MODELS, batch_size=16, mix=mix)
    for batch in batches(stream, 6):
        has = [key.startswith("words") for key in batch["key"]]
        present = batch.get("present", {}).get("text", torch.ones(16, dtype=torch.bool))
        assert present.tolist() == has


def test_a_sample_that_lacks_what_its_source_has_is_bad_and_named_with_its_source(sources, tmp_path):
    """Two sources have a shard and a key of the same name: both are named."""
    twins = {name: write(tmp_path / name, "twin", 20, broken=7, file="shard-000000") for name in ("one", "two")}
    record = tmp_path / "bad.jsonl"
    stream = TrainStream(twins, preprocess=MODELS, batch_size=4, max_bad_fraction=1, bad_samples=record)
    batches(stream, 30)
    named = [json.loads(line)["shard"] for line in record.read_text().splitlines()]
    assert sorted(named) == ["one/shard-000000.tar", "two/shard-000000.tar"]


def test_the_order_in_which_sources_stand_does_not_matter(sources):
    def keys_of(given):
        return [batch["key"] for batch in batches(TrainStream(given, preprocess=MODELS, batch_size=4), 12)]

    assert keys_of(sources) == keys_of(dict(reversed(sources.items())))


def test_stored_features_and_labels_are_a_sources_own(sources, tmp_path):
    array = io.BytesIO()
    np.save(array, np.arange(3, dtype=np.float32))
    path = tmp_path / "stored.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(12):
            members = {"txt": b"a word", "emb.npy": array.getvalue(), "json": b'{"class": 5}'}
            for extension, data in members.items():
                info = tarfile.TarInfo(f"stored-{number:02d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    options = {"features": {"emb": "emb.npy"}, "label": "json.class", "mix": "samples"}
    train = {"stored": str(path), "words": {**sources["words"], "weight": 12}}
    stream = TrainStream(train, preprocess={"text": Lengths()}, batch_size=8, **options)
    assert {source.name: set(source.fields) for source in stream.sources} == {
        "stored": {"text", "emb", "label"},
        "words": {"text"},
    }
    batch = batches(stream, 1)[0]
    mine = [key.startswith("stored") for key in batch["key"]]
    assert batch["present"]["emb"].tolist() == batch["present"]["label"].tolist() == mine
    assert batch["emb"].tolist() == [[0, 1, 2] if own else [0, 0, 0] for own in mine]
    assert batch["label"].tolist() == [5 if own else -1 for own in mine]


def test_a_field_that_does_not_exist_is_named(sources):
    with pytest.raises(DataError, match=r"data\.train\.words\.fields: 'txet' is no field.*text"):
        open_sources({"words": {**sources["words"], "fields": ["txet"]}})


def test_every_source_goes_through_its_own_epochs(sources):
    stream = TrainStream(sources, preprocess=MODELS, batch_size=4, image_size=8, slots=1)
    seen: dict[str, Counter[str]] = {}
    for batch in batches(stream, 200):
        for key in batch["key"]:
            seen.setdefault(key.partition("-")[0], Counter())[key] += 1
    for name, count in {"pairs": 40, "words": 13, "classes": 21}.items():
        assert len(seen[name]) == count
        assert max(seen[name].values()) - min(seen[name].values()) <= 1


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mix=st.sampled_from(["batches", "samples"]),
    world=st.sampled_from([1, 2, 4]),
    stops=st.lists(st.integers(1, 6), max_size=4),
    seed=st.integers(0, 100),
)
def test_stops_and_ranks_do_not_change_a_batch(sources, mix, world, stops, seed):
    def make(rank: int, world_size: int) -> TrainStream:
        options = {"batch_size": 32, "image_size": 8, "slots": 4, "seed": seed, "mix": mix}
        return TrainStream(sources, preprocess={"text": Lengths()}, rank=rank, world_size=world_size, **options)

    whole = batches(make(0, 1), 8)
    parts = []
    for rank in range(world):
        stream, own = make(rank, world), []
        for stop in stops:
            own += batches(stream, stop)
            state, stream = stream.state(), make(rank, world)
            stream.load_state(state)
        own += batches(stream, 8)
        parts.append(own[:8])
    for number, batch in enumerate(whole):
        keys = [key for own in parts for key in own[number]["key"]]
        assert sorted(keys) == sorted(batch["key"])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_do_not_change_a_batch(sources, num_workers):
    def run(workers: int):
        stream = TrainStream(sources, preprocess=MODELS, batch_size=8, image_size=8, num_workers=workers)
        return batches(stream, 12)

    for one, other in zip(run(0), run(num_workers), strict=True):
        assert one["key"] == other["key"]
        assert one.get("present", {}).keys() == other.get("present", {}).keys()
        for model in MODELS:
            assert all(torch.equal(t, other["views"][model][name]) for name, t in one["views"][model].items())


def test_another_weight_is_refused_on_resume(sources):
    stream = TrainStream(sources, preprocess=MODELS, batch_size=8)
    other = TrainStream({**sources, "words": {**sources["words"], "weight": 2}}, preprocess=MODELS, batch_size=8)
    with pytest.raises(DataError, match=r"words\.share: \d+ there, \d+ here"):
        other.load_state(stream.state())


def test_a_probe_has_a_view_for_everything(sources):
    stream = TrainStream(sources, preprocess=MODELS, batch_size=8, image_size=8)
    probe = stream.probe(5)
    assert len(probe["views"]["image"]["pixels"]) == len(probe["views"]["text"]["length"]) == len(probe["label"]) == 5
    assert "present" not in probe
    assert stream.state()["position"] == 0

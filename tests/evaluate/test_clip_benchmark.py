"""The installed clip_benchmark and xmodal measure one open_clip model on one set of shards: the figures are equal."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import open_clip
import pytest
import torch
from clip_benchmark.datasets.builder import build_wds_dataset, image_captions_collate_fn
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, default_collate

from xmodal.adapters import create_teacher
from xmodal.data import expand
from xmodal.errors import EvaluationError
from xmodal.evaluate import evaluate

TEMPLATES = ["a picture of {c}.", "{c}, drawn small", "an emoji about {c}"]
CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 48, "head_width": 12, "layers": 2},
    "text_cfg": {"context_length": 48, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}


def emoji(pattern: str) -> list[tuple[bytes, dict[str, str]]]:
    """Pictures and what is said of them, of the shards that ship."""
    found = []
    for path in expand(pattern):
        with tarfile.open(path) as tar:
            members = {name: tar.extractfile(name).read() for name in tar.getnames()}
        keys = sorted({name.partition(".")[0] for name in members})
        found += [(members[f"{key}.webp"], json.loads(members[f"{key}.json"])) for key in keys]
    return found


def write_layout(folder: Path, samples: list[dict[str, bytes]], split: str = "test", per_shard: int = 60) -> None:
    (folder / split).mkdir(parents=True)
    shards = [samples[start : start + per_shard] for start in range(0, len(samples), per_shard)]
    for number, shard in enumerate(shards):
        with tarfile.open(folder / split / f"{number}.tar", "w") as tar:
            for place, members in enumerate(shard):
                for extension, data in members.items():
                    info = tarfile.TarInfo(f"s{number * per_shard + place:07d}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    (folder / split / "nshards.txt").write_text(str(len(shards)))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    """A small open_clip model that has learned these emoji a little, so that recalls are neither 0 nor 1."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    transform, tokenizer = open_clip.image_transform(32, is_train=False), open_clip.get_tokenizer(f"local-dir:{folder}")
    samples = emoji("package://emoji/names-*.tar")
    images = torch.stack([transform(Image.open(io.BytesIO(image))) for image, _ in samples])
    texts = tokenizer([f"{said['name']}, {said['group']}" for _, said in samples])
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(60):
        rows = torch.randperm(256)[:128]
        image, text, scale = model(images[rows], texts[rows])
        logits, own = scale * image @ text.T, torch.arange(len(rows))
        optimizer.zero_grad()
        (cross_entropy(logits, own) + cross_entropy(logits.T, own)).backward()
        optimizer.step()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def theirs(model_folder):
    """Model, transform and tokenizer, as clip_benchmark's own loader gets them from open_clip."""
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{model_folder}")
    return model.eval(), transform, open_clip.get_tokenizer(f"local-dir:{model_folder}")


@pytest.fixture(scope="module")
def ours(model_folder):
    return create_teacher("open_clip", model=f"local-dir:{model_folder}")


@pytest.fixture(scope="module")
def groups(tmp_path_factory) -> Path:
    """Emoji by their group, of very unlike sizes, as a classification set."""
    folder = tmp_path_factory.mktemp("groups")
    samples = emoji("package://emoji/names-*.tar")
    names = sorted({said["group"] for _, said in samples})
    write_layout(folder, [{"webp": image, "cls": str(names.index(said["group"])).encode()} for image, said in samples])
    (folder / "classnames.txt").write_text("\n".join(name.replace("-", " and ") for name in names) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES) + "\n")
    return folder


@pytest.fixture(scope="module")
def captioned(tmp_path_factory) -> Path:
    """Emoji with one to four captions each, as a retrieval set; no text comes twice, for ties fall by chance there."""
    folder = tmp_path_factory.mktemp("captioned")
    samples = []
    for number, (image, said) in enumerate(emoji("package://emoji/names-*.tar")):
        wholes = [said["name"], *said["keywords"]][: 1 + number % 4]
        captions = [f"{whole}, {said['name']} by {said['vendor']}" for whole in dict.fromkeys(wholes)]
        samples.append({"webp": image, "txt": "\n".join(captions).encode()})
    write_layout(folder, samples)
    (folder / "dataset_type.txt").write_text("retrieval\n")
    return folder


def loader(folder: Path, transform, collate=default_collate) -> DataLoader:
    dataset = build_wds_dataset(folder.name, transform, split="test", data_dir=str(folder))
    made = DataLoader(dataset.batched(48, collation_fn=collate), batch_size=None)
    made.dataset.classes, made.dataset.templates = dataset.classes, dataset.templates
    return made


def test_zero_shot_is_clip_benchmarks(groups, theirs, ours, monkeypatch):
    # clip_benchmark 1.6.2 says float(array of one), which NumPy 2.4 no longer takes
    monkeypatch.setattr(zeroshot_classification, "float", lambda array: array.item(), raising=False)
    model, transform, tokenizer = theirs
    data = loader(groups, transform)
    expected = zeroshot_classification.evaluate(
        model, data, tokenizer, data.dataset.classes, data.dataset.templates, "cpu", amp=False
    )
    found = evaluate(ours, str(groups), tasks=["zero-shot"], batch_size=100).metrics["data"]
    assert found["num_labelled"] == 681
    assert found["zero_shot_top1"] == pytest.approx(expected["acc1"], abs=1e-4)
    assert found["zero_shot_top5"] == pytest.approx(expected["acc5"], abs=1e-4)
    assert found["zero_shot_mean_per_class_recall"] == pytest.approx(expected["mean_per_class_recall"], abs=1e-4)
    assert 0.12 < expected["mean_per_class_recall"] != expected["acc1"] < expected["acc5"] < 0.98  # the check can fail


def test_retrieval_with_several_captions_is_clip_benchmarks(captioned, theirs, ours):
    model, transform, tokenizer = theirs
    data = loader(captioned, transform, image_captions_collate_fn)
    expected = zeroshot_retrieval.evaluate(model, data, tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10])
    found = evaluate(ours, str(captioned), tasks=["retrieval"], batch_size=100).metrics["data"]
    assert found["num_texts"] > 2 * found["num_images"] == 2 * 681
    for k in (1, 5, 10):
        assert found[f"text_to_image_recall@{k}"] == pytest.approx(expected[f"image_retrieval_recall@{k}"], abs=1e-4)
        assert found[f"image_to_text_recall@{k}"] == pytest.approx(expected[f"text_retrieval_recall@{k}"], abs=1e-4)
    assert 0.05 < expected["image_retrieval_recall@10"] != expected["text_retrieval_recall@10"] > 0.05


def test_our_own_layout_gives_what_theirs_gives(groups, ours, tmp_path):
    """The same pictures in shards of another form: labels in JSON, names and templates handed over."""
    names = (groups / "classnames.txt").read_text().splitlines()
    paths = [str(path) for path in sorted((groups / "test").glob("*.tar"))]
    expected = evaluate(ours, str(groups), tasks=["zero-shot"]).metrics
    options = {"class_names": names, "templates": [template.replace("{c}", "{}") for template in TEMPLATES]}
    assert evaluate(ours, paths, tasks=["zero-shot"], **options).metrics == expected
    by_name = {name.replace(" and ", "-"): name for name in names}
    found = evaluate(
        ours,
        "package://emoji/names-*.tar",
        tasks=["zero-shot"],
        label="json.group",
        class_names=by_name,
        templates=options["templates"],
    )
    assert found.metrics["data"] == pytest.approx(expected["data"], abs=1e-9)


def test_a_dataset_folder_brings_its_training_split(groups, ours, tmp_path):
    folder = tmp_path / "both"
    samples = [(image, said["group"]) for image, said in emoji("package://emoji/style-*.tar")]
    names = sorted({group for _, group in samples})
    made = [{"webp": image, "cls": str(names.index(group)).encode()} for image, group in samples]
    write_layout(folder, made[::2])
    write_layout(folder, made[1::2], split="train")
    found = evaluate(ours, str(folder), tasks=["knn", "probe"], train=str(folder)).metrics["data"]
    assert found == evaluate(ours, str(folder), tasks=["knn", "probe"], train=str(folder / "train")).metrics["data"]
    assert (found["num_labelled"], found["num_train"]) == (len(made[::2]), len(made[1::2]))
    assert found["knn_top1"] > found["majority_top1"]
    assert found["probe_top1"] > found["majority_top1"]
    with pytest.raises(EvaluationError, match="has no split 'train' to learn from"):
        evaluate(ours, str(folder), tasks=["knn"], train=str(groups))

"""The model card: front matter that hubs read, code that runs, figures that were measured."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from xmodal.adapters import Encoder
from xmodal.export import model_card, save_student, write_card


def front_matter(card: str) -> dict[str, Any]:
    _, head, _ = card.split("---\n", 2)
    loaded: dict[str, Any] = yaml.safe_load(head)
    return loaded


def test_it_says_what_was_taught_by_whom_into_which_space(metadata: dict[str, Any]) -> None:
    card = model_card({"name": "image", "model": "tf_efficientnet_lite0"}, metadata)
    assert front_matter(card) == {
        "library_name": "timm",
        "pipeline_tag": "image-feature-extraction",
        "license": "apache-2.0",
        "tags": ["xmodal", "knowledge-distillation"],
    }
    assert "# emoji\n" in card
    assert "`tf_efficientnet_lite0`, taught by `sentence-transformers/all-MiniLM-L6-v2`" in card
    assert "`text.embedding`, 8 dimensions" in card
    assert "- objective: feature_cosine, soft_contrastive" in card
    assert "- data: package://emoji/train-*.tar" in card
    assert "- steps: 12" in card


@pytest.mark.parametrize("name", ["image", "text", "clip", "open_clip"])
def test_without_metadata_it_claims_nothing(name: str) -> None:
    card = model_card({"name": name}, {})
    assert "trained without a teacher" in card
    assert "Measured" not in card
    assert "Its space" not in card
    assert "`None`" not in card
    assert ": None" not in card
    assert "license" not in front_matter(card)


def test_figures_stand_beside_those_without_a_teacher(metadata: dict[str, Any]) -> None:
    metrics = {"seen": {"text_to_image_recall@10": 0.9123456, "num_queries": 1700}, "unseen": {"recall@1": 0.5}}
    card = model_card({"name": "image"}, metadata, metrics=metrics, baseline={"seen": {"text_to_image_recall@10": 0.8}})
    assert "| split | metric | value | without teacher |" in card
    assert "| seen | text_to_image_recall@10 | 0.9123 | 0.8 |" in card
    assert "| unseen | recall@1 | 0.5 |  |" in card


def test_the_card_is_saved_with_the_student_and_rewritten_with_figures(
    make_student: Callable[..., Encoder], metadata: dict[str, Any], tmp_path: Path
) -> None:
    student = make_student()
    folder = save_student(student, tmp_path / "run" / "student", metadata, metrics={"seen": {"recall@1": 0.25}})
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| seen | recall@1 | 0.25 |" in card
    files = sorted(path.name for path in folder.iterdir())
    write_card(tmp_path / "run", metrics={"seen": {"recall@1": 0.75}})
    assert (folder / "README.md").read_text(encoding="utf-8") == card.replace("0.25", "0.75")
    assert sorted(path.name for path in folder.iterdir()) == files


@pytest.mark.parametrize("name", ["image", "text", "clip", "open_clip"])
def test_the_code_on_the_card_runs(
    make_student: Callable[..., Encoder],
    picture: Image.Image,
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = save_student(make_student(name), tmp_path / "student")
    code = re.search(r"```python\n(.*?)```", model_card({"name": name}, {}, folder=str(folder)), re.DOTALL)
    assert code is not None
    picture.save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(code[1], found)
    if name == "clip":
        assert found["image_tower"].num_classes == 8 == found["text_tower"].encode(["a"]).shape[1]
    elif name == "open_clip":
        assert found["image"].shape == found["text"].shape == (1, 8)
    else:
        assert found["output" if name == "image" else "embedding"].shape == (1, 8)

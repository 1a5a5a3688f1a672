"""Where models come from, what they are told apart by, and what is said when they cannot be had."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from xmodal.adapters import create_teacher
from xmodal.errors import AdapterError

Make = Callable[..., Any]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of the hub's, and no hub."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return cache


@pytest.fixture
def copied(saved: Make, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(saved("vit"), folder)
    return folder


@pytest.fixture
def known(saved: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The small ViT as a model that open_clip knows by name."""
    config = json.loads((saved("vit") / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "tiny-vit.json").write_text(json.dumps(config))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    open_clip.add_model_config(tmp_path / "tiny-vit.json")
    return "tiny-vit"


def message(**options: Any) -> str:
    with pytest.raises(AdapterError) as error:
        create_teacher("open_clip", **options)
    return str(error.value)


def test_a_name_with_a_weight_file_is_the_folders_model(known: str, saved: Make, teacher_of: Make) -> None:
    teacher = create_teacher("open_clip", model=known, pretrained=str(saved("vit") / WEIGHTS))
    assert teacher.state_hash() == teacher_of("vit").state_hash()
    assert teacher.identity() == teacher_of("vit").identity()
    assert teacher.name == "open_clip (tiny-vit)"


def test_weights_of_the_old_format_are_read_and_never_unpickled(
    known: str, copied: Path, saved: Make, tmp_path: Path
) -> None:
    state = load_file(copied / WEIGHTS)
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "old.pt")
    expected = create_teacher("open_clip", model=f"local-dir:{copied}").state_hash()
    assert create_teacher("open_clip", model=known, pretrained=str(tmp_path / "old.pt")).state_hash() == expected
    torch.save(Trap(tmp_path / "sprung"), tmp_path / "trap.pt")
    assert "truncated or not a weight file" in message(model=known, pretrained=str(tmp_path / "trap.pt"))
    assert not (tmp_path / "sprung").exists()


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_random_weights_are_drawn_from_torchs_generator(known: str) -> None:
    def made(seed: int) -> str:
        torch.manual_seed(seed)
        return create_teacher("open_clip", model=known, pretrained=False).identity()

    assert made(0) == made(0) != made(1)


def test_a_tag_takes_its_transform_along(
    known: str, saved: Make, no_hub: Path, monkeypatch: pytest.MonkeyPatch, reference: Make
) -> None:
    tag = {"hf_hub": "someone/tiny/", "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.5, 0.5), "resize_mode": "squash"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, known, {"mine": tag})
    in_cache(no_hub, "someone/tiny", saved("vit"))
    teacher = create_teacher("open_clip", model=known)  # the only tag
    assert teacher.pictures.config["resize_mode"] == "squash"
    assert teacher.pictures.config["std"] == [0.25, 0.5, 0.5]
    assert create_teacher("open_clip", model=known, pretrained="mine").identity() == teacher.identity()
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, known, {"mine": {**tag, "quick_gelu": True}})
    with pytest.warns(UserWarning, match="QuickGELU"):  # open_clip has no such model by another name
        create_teacher("open_clip", model=known)


def in_cache(cache: Path, repository: str, folder: Path) -> None:
    place = cache / f"models--{repository.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)


def test_a_hub_model_is_served_from_the_cache_and_named_by_its_commit(
    saved: Make, no_hub: Path, teacher_of: Make
) -> None:
    in_cache(no_hub, "someone/tiny", saved("vit"))
    teacher = create_teacher("open_clip", model="hf-hub:someone/tiny")
    assert teacher.state_hash() == teacher_of("vit").state_hash()
    assert teacher.name == "open_clip (tiny)"
    assert teacher._weights == f"{COMMIT}/{WEIGHTS}"
    (no_hub / "models--someone--tiny" / "snapshots" / COMMIT / WEIGHTS).unlink()
    said = message(model="hf-hub:someone/tiny")  # open_clip itself would go on with random weights
    assert "'someone/tiny' is not to be had" in said
    assert str(no_hub) in said


def test_image_size_sets_picture_and_network(teacher_of: Make, photos: list[Any]) -> None:
    small = teacher_of("timm", image_size=96)
    assert small.encode(image=photos, taps=["image.map"])["image.map"].shape == (4, 64, 6, 6)
    assert small.identity() != teacher_of("timm").identity()
    assert teacher_of("vit", image_size=48).encode(image=photos, taps=["image.tokens"])["image.tokens"].shape[1] == 36


def test_the_same_files_have_the_same_identity_and_whatever_differs_another(copied: Path) -> None:
    def identity(**options: Any) -> str:
        return create_teacher("open_clip", model=f"local-dir:{copied}", **options).identity()

    first = identity()
    teacher = create_teacher("open_clip", model=f"local-dir:{copied}")
    teacher.encode(text=["a cat"])
    assert teacher.identity() == first
    told = json.loads((copied / "open_clip_config.json").read_text())
    changed = {"precision": identity(precision="pure_bf16"), "size": identity(image_size=64)}
    told["preprocess_cfg"]["mean"] = [0.5, 0.5, 0.5]
    (copied / "open_clip_config.json").write_text(json.dumps(told))
    changed["mean"] = identity()
    told["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"clean": "whitespace"}
    (copied / "open_clip_config.json").write_text(json.dumps(told))
    changed["tokenizer"] = identity()
    state = load_file(copied / WEIGHTS)
    state["visual.ln_post.bias"][0] += 1
    save_file(state, copied / WEIGHTS)
    changed["weights"] = identity()
    assert len({first, *changed.values()}) == 6


def test_open_clips_talk_sets_up_no_logging(saved: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    create_teacher("open_clip", model=f"local-dir:{saved('vit')}", pretrained=False)
    assert root.handlers == []
    assert root.filters == []


def test_a_wrong_name_points_at_the_nearest() -> None:
    assert "'ViT-B-33' is not an open_clip model. Nearest: ViT-B-32" in message(model="ViT-B-33", pretrained=False)


def test_a_folder_without_its_prefix_is_pointed_at(copied: Path) -> None:
    assert f"or local-dir:{copied}" in message(model=str(copied))


def test_a_wrong_tag_lists_those_of_the_model() -> None:
    said = message(model="ViT-B-32", pretrained="laion2b_s34b_b79")
    assert "neither a tag of ViT-B-32's weights nor a weight file. Nearest: laion2b_s34b_b79k" in said
    assert all(tag in said for tag in open_clip.list_pretrained_tags_by_model("ViT-B-32"))
    assert "pretrained=TAG" in message(model="ViT-B-32")


def test_a_model_without_weights_says_so(known: str) -> None:
    assert f"open_clip has no weights for {known}: give the path" in message(model=known)


def test_weights_of_another_activation_name_the_model_they_are_of() -> None:
    said = message(model="ViT-B-32", pretrained="openai")
    assert "trained with QuickGELU" in said
    assert "'ViT-B-32-quickgelu'" in said


def test_offline_the_cache_and_what_to_run_are_named(no_hub: Path) -> None:
    said = message(model="ViT-B-32", pretrained="laion2b_s34b_b79k")
    assert "The weights 'laion2b_s34b_b79k' of ViT-B-32 cannot be had." in said
    assert "hf download laion/CLIP-ViT-B-32-laion2B-s34B-b79K" in said
    assert str(no_hub) in said
    said = message(model="hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
    assert "hf download laion/CLIP-ViT-B-32-laion2B-s34B-b79K" in said
    assert str(no_hub) in said
    said = message(model="ViT-B-16-SigLIP", pretrained=False)
    assert "The tokenizer of 'ViT-B-16-SigLIP' cannot be loaded" in said
    assert "hf download timm/ViT-B-16-SigLIP" in said


def test_a_gated_repository_says_where_its_terms_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from huggingface_hub.errors import GatedRepoError

    def refuse(*given: object, **named: object) -> None:
        response: Any = SimpleNamespace(headers={}, request=None)
        raise GatedRepoError("401 Client Error.", response=response)

    monkeypatch.setattr("open_clip.pretrained.hf_hub_download", refuse)
    assert "accept its terms on https://huggingface.co/someone/gated" in message(model="hf-hub:someone/gated")


def test_a_weight_url_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(url: str) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("open_clip.pretrained.urllib.request.urlopen", refuse)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "ViT-B-32", {"mine": {"url": "https://example.org/w.pt"}})
    said = message(model="ViT-B-32", pretrained="mine")
    assert "no route to host" in said
    assert "curl -L -o w.pt https://example.org/w.pt" in said


def test_a_truncated_file_is_said_to_be_broken(copied: Path) -> None:
    weights = copied / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    said = message(model=f"local-dir:{copied}")
    assert f"{weights} (" in said
    assert "truncated or not a weight file" in said


@pytest.mark.parametrize("change", ["missing", "foreign", "shape", "empty"])
def test_a_foreign_file_lists_what_does_not_fit(change: str, copied: Path) -> None:
    state = load_file(copied / WEIGHTS)
    if change == "missing":
        del state["visual.proj"]
    elif change == "foreign":
        state = {"layer1.weight": torch.zeros(2)}
    elif change == "shape":
        state["visual.proj"] = torch.zeros(3, 4)
    else:
        state = {}
    save_file(state, copied / WEIGHTS)
    said = message(model=f"local-dir:{copied}")
    assert str(copied / WEIGHTS) in said
    assert f"local-dir:{copied}" in said
    if change in ("missing", "shape"):
        assert "visual.proj" in said


def test_weights_of_another_size_point_at_image_size(saved: Make) -> None:
    said = message(model=f"local-dir:{saved('resnet')}", image_size=96)
    assert "size mismatch for visual.attnpool.positional_embedding" in said
    assert "Was it trained at 96 pixels?" in said


def test_a_folder_that_is_not_whole_says_what_it_lacks(copied: Path, tmp_path: Path, saved: Make) -> None:
    def of(folder: Path, **options: Any) -> str:
        return message(model=f"local-dir:{folder}", **options)

    assert "There is no folder" in of(tmp_path / "none")
    assert "There is no folder" in message(model="local-dir:")
    (copied / WEIGHTS).unlink()
    assert f"{copied} holds no weights" in of(copied)
    assert create_teacher("open_clip", model=f"local-dir:{copied}", pretrained=False).embed_dim == 24
    (copied / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 3}}))
    assert "model_cfg has no vision_cfg, text_cfg" in of(copied)
    (copied / "open_clip_config.json").write_text("{")
    assert "is no JSON" in of(copied)
    (copied / "open_clip_config.json").unlink()
    assert f"{copied} holds no open_clip_config.json" in of(copied)
    siglip = tmp_path / "siglip"
    shutil.copytree(saved("siglip"), siglip)
    for file in siglip.glob("tokenizer*"):
        file.unlink()
    assert "tokenizer.save_pretrained(FOLDER)" in of(siglip)


def test_weights_beside_a_folders_own_are_not_ignored(copied: Path) -> None:
    said = message(model=f"local-dir:{copied}", pretrained="laion2b_s34b_b79k")
    assert "open_clip would ignore pretrained='laion2b_s34b_b79k'" in said


def test_a_text_tower_that_is_not_here_names_its_repository(copied: Path, no_hub: Path) -> None:
    told = json.loads((copied / "open_clip_config.json").read_text())
    told["model_cfg"]["text_cfg"] = {"hf_model_name": "someone/bert", "hf_tokenizer_name": "someone/bert"}
    (copied / "open_clip_config.json").write_text(json.dumps(told))
    said = message(model=f"local-dir:{copied}", pretrained=False)
    assert "The text tower of" in said
    assert "hf download someone/bert" in said


def test_a_network_that_timm_does_not_have_is_said(copied: Path) -> None:
    told = json.loads((copied / "open_clip_config.json").read_text())
    told["model_cfg"]["vision_cfg"] = {"timm_model_name": "resnet99"}
    (copied / "open_clip_config.json").write_text(json.dumps(told))
    assert "open_clip cannot make" in message(model=f"local-dir:{copied}", pretrained=False)


def test_a_wrong_precision_points_at_the_nearest(copied: Path) -> None:
    assert "not a precision of open_clip's. Nearest: fp16" in message(model=f"local-dir:{copied}", precision="f16")


def test_a_size_of_nothing_is_refused(copied: Path) -> None:
    assert "image_size must be at least 1; given 0" in message(model=f"local-dir:{copied}", image_size=0)


def test_without_the_package_the_pip_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "open_clip", None)
    assert "pip install open_clip_torch" in message(model="ViT-B-32", pretrained=False)


def test_code_of_a_repository_is_not_run(saved: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "siglip"
    shutil.copytree(saved("siglip"), folder)
    told = json.loads((folder / "open_clip_config.json").read_text())
    told["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    (folder / "open_clip_config.json").write_text(json.dumps(told))
    asked: list[Any] = []
    import transformers

    own = transformers.AutoTokenizer.from_pretrained

    def read(*given: Any, **named: Any) -> Any:
        asked.append(named.get("trust_remote_code"))
        return own(*given, **named)

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", read)
    create_teacher("open_clip", model=f"local-dir:{folder}")
    assert asked == [False]

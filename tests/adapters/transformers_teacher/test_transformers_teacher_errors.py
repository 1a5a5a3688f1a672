"""What a user is told whose model, files, options or network are not what the transformers teacher needs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from xmodal.adapters import create_student, create_teacher
from xmodal.errors import AdapterError


@pytest.fixture
def copy(model_folder: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda kind: shutil.copytree(model_folder(kind), tmp_path / kind)


def load(folder: Path | str, **options: Any) -> None:
    create_teacher("transformers", model=str(folder), **options)


def set_config(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_an_unknown_architecture_lists_those_that_are_read(copy: Callable[[str], Path]) -> None:
    folder = copy("clip")
    set_config(folder, model_type="clipp")
    with pytest.raises(AdapterError, match=r"is a 'clipp'; .* reads clip, .*dinov3_vit, bert.*Nearest: clip"):
        load(folder)


def test_naflex_and_convolutional_networks_are_refused_with_the_reason(copy: Callable[[str], Path]) -> None:
    folder = copy("siglip")
    for kind, reason in [
        ("siglip2", "NaFlex.*number of patches"),
        ("dinov3_convnext", "convolutional.*teacher 'timm'"),
    ]:
        set_config(folder, model_type=kind)
        with pytest.raises(AdapterError, match=reason):
            load(folder)


def test_an_option_that_would_do_nothing_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("bert")
    with pytest.raises(AdapterError, match="sees no pictures: leave image_size out"):
        load(folder, image_size=64)
    with pytest.raises(AdapterError, match="has no revisions: leave revision='v2' out"):
        load(folder, revision="v2")


def test_two_towers_are_no_sentence_encoder(copy: Callable[[str], Path]) -> None:
    with pytest.raises(AdapterError, match=r"'clip' model, which is no text encoder by itself.*teacher 'transformers'"):
        create_teacher("sentence", model=str(copy("clip")))


def test_a_static_student_of_a_slow_tokenizer_is_refused(copy: Callable[[str], Path]) -> None:
    with pytest.raises(AdapterError, match="needs a fast tokenizer; SiglipTokenizer is none"):
        create_student("static", tokenizer=str(copy("siglip")), width=8)


def test_code_that_comes_with_a_checkpoint_is_not_run(copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy("bert")
    ran = tmp_path / "ran"
    (folder / "modeling.py").write_text(f"open({str(ran)!r}, 'w').close()\nBert = Config = None\n")
    set_config(folder, auto_map={"AutoModel": "modeling.Bert", "AutoConfig": "modeling.Config"})
    load(folder)
    set_config(folder, model_type="own")
    with pytest.raises(AdapterError, match="is a 'own'"):
        load(folder)
    assert not ran.exists()


def test_a_folder_that_is_none_is_said(tmp_path: Path, copy: Callable[[str], Path]) -> None:
    with pytest.raises(AdapterError, match="There is no folder"):
        load(tmp_path / "none")
    with pytest.raises(AdapterError, match=r"holds no config\.json"):
        load(tmp_path)
    folder = copy("vit")
    (folder / "config.json").write_text("{")
    with pytest.raises(AdapterError, match=r"config\.json is not JSON"):
        load(folder)


def test_a_name_that_cannot_be_had_offline_names_the_cache_and_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(AdapterError) as error:
        load("openai/clip-vit-base-patch32")
    for part in (str(tmp_path), "HF_HUB_OFFLINE is set", "hf download openai/clip-vit-base-patch32"):
        assert part in str(error.value)


@pytest.mark.parametrize("kind", ["GatedRepoError", "RepositoryNotFoundError"])
def test_a_gated_model_and_a_wrong_name_are_told_apart(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    import huggingface_hub

    class Refused(getattr(huggingface_hub.errors, kind)):  # type: ignore[misc]
        def __init__(self) -> None:  # theirs wants the server's response
            pass

        def __str__(self) -> str:
            return "403 Client Error."

    def refuse(*_: Any, **__: Any) -> None:
        raise Refused

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(AdapterError) as error:
        load("facebook/dinov3-vits16-pretrain-lvd1689m")
    gated = (
        "accept its terms on https://huggingface.co/facebook/dinov3-vits16-pretrain-lvd1689m, then run: hf auth login"
    )
    assert (gated in str(error.value)) == (kind == "GatedRepoError")
    assert "The hub said: 403 Client Error." in str(error.value)


def test_broken_weights_are_said_to_be_broken(copy: Callable[[str], Path]) -> None:
    folder = copy("dinov2")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(AdapterError, match="cannot be loaded as a transformers model"):
        load(folder)
    weights.unlink()
    with pytest.raises(AdapterError, match=r"cannot be loaded.*safetensors"):
        load(folder)


def test_weights_that_are_missing_are_not_filled_with_random_numbers(copy: Callable[[str], Path]) -> None:
    folder = copy("clip")
    tensors = load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AdapterError, match=r"not whole: 1 missing \(visual_projection\.weight\)"):
        load(folder)


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2", "bert", "roberta", "deberta-v2", "mpnet"])
def test_a_tokenizer_that_is_not_there_is_not_made_up(copy: Callable[[str], Path], kind: str) -> None:
    folder = copy(kind)
    for name in ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "spm.model"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(AdapterError, match=r"holds no tokenizer: none of tokenizer\.json.*save_pretrained"):
        load(folder)


def test_a_tokenizer_file_that_is_broken_is_said(copy: Callable[[str], Path]) -> None:
    folder = copy("bert")
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": 3}')
    with pytest.raises(AdapterError, match="no tokenizer that transformers can load"):
        load(folder)


def test_a_tokenizer_whose_package_is_missing_names_the_command(
    copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("SiglipTokenizer requires the SentencePiece library but it was not found.")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", missing)
    with pytest.raises(AdapterError, match="pip install sentencepiece protobuf"):
        load(copy("siglip"))


def test_an_image_processor_that_is_missing_or_broken_is_said(copy: Callable[[str], Path]) -> None:
    folder = copy("dinov3")
    (folder / "preprocessor_config.json").write_text("{")
    with pytest.raises(AdapterError, match="no image processor that transformers can load"):
        load(folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(AdapterError, match=r"holds no preprocessor_config\.json"):
        load(folder)


def test_pictures_of_unlike_shape_are_refused_with_the_way_out(copy: Callable[[str], Path]) -> None:
    folder = copy("clip-image")
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"do_center_crop": False}))
    with pytest.raises(AdapterError, match=r"unlike shape.*Give an image_size"):
        load(folder)
    load(folder, image_size=32)


def test_options_that_are_wrong_name_those_that_are_right(model_folder: Callable[[str], Path]) -> None:
    folder = model_folder("clip")
    with pytest.raises(AdapterError, match=r"dtype 'float23' is none of float32, bfloat16, float16\. Nearest: float32"):
        load(folder, dtype="float23")
    with pytest.raises(AdapterError, match="attention 'kernels/fast' is none of sdpa, eager, flash_attention_2"):
        load(folder, attention="kernels/fast")
    with pytest.raises(AdapterError, match=r"image_size 33 is not a multiple of .* patch size 8\. Nearest: 32, 40"):
        load(folder, image_size=33)
    with pytest.raises(AdapterError, match=r"no option 'modle'\. Nearest: model"):
        create_teacher("transformers", modle="x")
    with pytest.raises(AdapterError, match=r"'image\.embeding' is not a tap of .*Nearest: image\.embedding"):
        create_teacher("transformers", model=str(folder)).encode(text=["a cat"], taps=["image.embeding"])

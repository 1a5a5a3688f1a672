"""The image student: a timm network whose own output is the embedding."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from xmodal.adapters import Encoder, create_student
from xmodal.errors import AdapterError

FAMILIES = ["tf_efficientnet_lite0", "test_resnet", "test_convnext", "test_vit", "mobilenetv4_conv_small_035"]


def state_of(student: Encoder) -> dict[str, torch.Tensor]:
    """The network's tensors as a file holds them."""
    return {name: tensor.contiguous() for name, tensor in student.model.state_dict().items()}


def student_of(model: str = "test_efficientnet", seed: int = 0, **options: object) -> Encoder:
    torch.manual_seed(seed)
    return create_student("image", model=model, **{"weights": "random", "image_size": 64, **options})


@pytest.mark.parametrize("model", FAMILIES)
def test_the_embedding_is_the_networks_own_output_and_the_head_over_its_features(model: str) -> None:
    student = student_of(model, embed_dim=12).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        alone = student({"image": images}, ["image.embedding"])["image.embedding"]
        both = student({"image": images}, ["image.features", "image.embedding"])
        head = student.model.get_classifier()
        assert torch.allclose(alone, student.model(images), atol=1e-6)
        assert torch.allclose(both["image.embedding"], alone, atol=1e-6)
        assert torch.allclose(head(both["image.features"]), alone, atol=1e-6)
    assert alone.shape == (2, student.embed_dim) == (2, 12)


@pytest.mark.parametrize("model", FAMILIES)
@pytest.mark.parametrize("embed_dim", [5, None])
def test_every_parameter_gets_a_gradient_from_the_embedding(model: str, embed_dim: int | None) -> None:
    student = student_of(model, embed_dim=embed_dim)
    student({"image": torch.randn(2, 3, 64, 64)}, ["image.embedding"])["image.embedding"].square().sum().backward()
    assert [name for name, parameter in student.named_parameters() if parameter.grad is None] == []


def test_without_embed_dim_the_embedding_is_the_pooled_features() -> None:
    student = student_of().eval()
    found = student({"image": torch.randn(1, 3, 64, 64)}, ["image.embedding", "image.features"])
    assert student.embed_dim == 256
    assert torch.equal(found["image.embedding"], found["image.features"])


def test_num_classes_makes_logits_and_leaves_the_embedding_pooled() -> None:
    student = student_of(num_classes=7).eval()
    images = torch.randn(2, 3, 64, 64)
    found = student({"image": images}, ["logits", "image.embedding"])
    assert torch.allclose(found["logits"], student.model(images), atol=1e-6)
    assert found["image.embedding"].shape == (2, 256) == (2, student.embed_dim)
    assert "logits" not in student_of(embed_dim=7).taps()
    with pytest.raises(AdapterError, match="not both"):
        student_of(embed_dim=7, num_classes=7)


def test_imagenet_weights_are_kept_below_a_new_head() -> None:
    whole = create_student("image", model="tf_efficientnet_lite0", num_classes=1000)
    student = create_student("image", model="tf_efficientnet_lite0", embed_dim=16)
    random = student_of("tf_efficientnet_lite0", embed_dim=16)
    own, expected = student.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(own[name], expected[name]) for name in own if not name.startswith("classifier."))
    assert own["classifier.weight"].shape == (16, 1280)
    assert not torch.equal(random.model.state_dict()["conv_stem.weight"], own["conv_stem.weight"])


def test_the_seed_decides_the_random_weights() -> None:
    assert student_of(seed=3, embed_dim=4).state_hash() == student_of(seed=3, embed_dim=4).state_hash()
    assert student_of(seed=3, embed_dim=4).state_hash() != student_of(seed=4, embed_dim=4).state_hash()


def test_a_head_of_zeros_is_woken() -> None:
    student = student_of("mixer_s32_224", embed_dim=4, image_size=224)
    assert student.model.get_classifier().weight.std() > 0.01


@pytest.mark.parametrize("model", ["deit_tiny_distilled_patch16_224", "dla34"])
def test_a_network_whose_output_is_not_one_linear_layer_is_refused_as_head(model: str) -> None:
    with pytest.raises(AdapterError, match="not one linear layer"):
        student_of(model, embed_dim=4, image_size=224)


def test_weights_come_from_a_file_and_a_head_of_another_width_is_left_out(tmp_path: Path) -> None:
    first = student_of(embed_dim=4)
    state = state_of(first)
    save_file(state, tmp_path / "same.safetensors")
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "wrapped.pth")
    for name in ("same.safetensors", "wrapped.pth"):
        assert student_of(seed=9, embed_dim=4, weights=tmp_path / name).state_hash() == first.state_hash()
    wider = student_of(seed=9, embed_dim=6, weights=str(tmp_path / "same.safetensors"))
    assert torch.equal(wider.model.conv_stem.weight, first.model.conv_stem.weight)
    assert wider.model.classifier.weight.shape[0] == 6


def test_weights_of_another_network_are_refused_with_names_and_shapes(tmp_path: Path) -> None:
    save_file(state_of(student_of("test_resnet", embed_dim=4)), tmp_path / "other.safetensors")
    with pytest.raises(AdapterError, match=r"not of this model: conv_stem\.weight is missing; .* in all"):
        student_of(weights=tmp_path / "other.safetensors")
    with pytest.raises(AdapterError, match="There is no weight file"):
        student_of(weights=tmp_path / "none.safetensors")


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_truncated_weights_are_said_to_be_truncated(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"weights.{suffix}"
    state = state_of(student_of(embed_dim=4))
    save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    for size in (file.stat().st_size // 2, 3, 0):
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(AdapterError, match=rf"\({size} bytes\) is truncated"):
            student_of(weights=file)


class Bomb:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('a weight file ran code')",))


def test_code_in_a_weight_file_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "bomb.pth").write_bytes(pickle.dumps({"weight": Bomb()}))
    torch.save({"weight": Bomb()}, tmp_path / "zipped.pth")
    for name in ("bomb.pth", "zipped.pth"):
        with pytest.raises(AdapterError, match="not a weight file"):
            student_of(weights=tmp_path / name)


def test_drop_path_is_at_work_in_training_only() -> None:
    student = student_of("test_vit", embed_dim=4, drop_path=0.5)
    images = {"image": torch.randn(1, 3, 64, 64).expand(16, -1, -1, -1)}
    assert student(images, ["image.embedding"])["image.embedding"].std(0).max() > 1e-3
    assert student.eval()(images, ["image.embedding"])["image.embedding"].std(0).max() < 1e-5
    with pytest.raises(AdapterError, match=r"does not take .*drop_path_rate"):
        student_of("vgg11", embed_dim=4, drop_path=0.5)


def test_pictures_too_small_for_a_network_are_refused_when_it_is_made() -> None:
    with pytest.raises(AdapterError, match=r"cannot see pictures of \(3, 7, 7\)"):
        student_of("test_vit", image_size=7)


def test_identity_follows_weights_and_picture_size() -> None:
    student = student_of(embed_dim=4)
    first = student.identity()
    assert first == student_of(embed_dim=4).identity() != student_of(embed_dim=4, image_size=96).identity()
    with torch.no_grad():
        student.model.classifier.bias[0] += 1
    assert student.identity() != first

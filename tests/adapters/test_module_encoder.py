"""A user's own module as an encoder: taps by path, against what forward hooks written here see."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
import transformers
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from xmodal.adapters import Encoder, wrap_module
from xmodal.adapters.module_encoder import ModuleEncoder
from xmodal.errors import AdapterError

TRANSFORM = transforms.Compose([transforms.Resize((64, 64)), transforms.ToTensor()])
TAPS = {"image.embedding": "avgpool", "image.map": "layer4", "image.hidden.0": "layer1.0.bn1", "logits": ""}


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None).eval()


@pytest.fixture
def pictures(picture: Callable[..., Image.Image]) -> list[Image.Image]:
    return [picture(0), picture(1, 90, 70), picture(2, mode="RGBA")]


def by_hand(resnet: Any, pictures: list[Image.Image]) -> dict[str, Tensor]:
    """The layers called one after another, as torchvision's own forward does, without one in-place operation."""
    from xmodal.adapters.preprocess import to_rgb

    with torch.no_grad():
        x = torch.stack([TRANSFORM(to_rgb(picture)) for picture in pictures])
        x = resnet.maxpool(torch.relu(resnet.bn1(resnet.conv1(x))))
        hidden = resnet.layer1[0].bn1(resnet.layer1[0].conv1(x))
        final = resnet.layer4(resnet.layer3(resnet.layer2(resnet.layer1(x))))
        pooled = final.mean((2, 3))
        return {
            "image.embedding": pooled,
            "image.map": final,
            "image.hidden.0": hidden,
            "logits": resnet.fc(pooled),
        }


def test_taps_are_the_outputs_at_their_paths_whatever_runs_in_place_behind_them(
    resnet: nn.Module, pictures: list[Image.Image]
) -> None:
    encoder = wrap_module(resnet, preprocess=TRANSFORM, taps=TAPS)
    expected = by_hand(resnet, pictures)
    found = encoder.encode(image=pictures, taps=list(TAPS))
    assert encoder.embed_dim == 512
    assert (expected["image.hidden.0"] < 0).any()  # the rectifier behind it runs in place
    for tap, tensor in expected.items():
        assert torch.allclose(found[tap], tensor, atol=1e-6), tap
    assert torch.equal(
        encoder.encode(image=pictures, taps=["image.hidden.-1"])["image.hidden.-1"], found["image.hidden.0"]
    )


def test_hooks_live_as_long_as_one_call(resnet: nn.Module, pictures: list[Image.Image]) -> None:
    encoder = wrap_module(resnet, preprocess=TRANSFORM, taps=TAPS)
    with pytest.raises(RuntimeError):
        encoder({"image": torch.zeros(2, 5, 64, 64)}, ["image.map"])
    encoder.encode(image=pictures, taps=["image.map"])
    assert not any(module._forward_hooks for module in resnet.modules())


def compiled_whole(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")  # type: ignore[return-value]


def compiled_in_place(module: nn.Module) -> nn.Module:
    module.compile(backend="eager")
    return module


def compiled_in_part(module: Any) -> nn.Module:
    module.layer1 = torch.compile(module.layer1, backend="eager")
    module.layer4.compile(backend="eager")
    return module  # type: ignore[no-any-return]


@pytest.mark.parametrize("make", [compiled_whole, compiled_in_place, compiled_in_part])
def test_a_compiled_module_has_the_same_taps(
    make: Callable[[nn.Module], nn.Module], resnet: nn.Module, pictures: list[Image.Image]
) -> None:
    taps = {**TAPS, "image.hidden.0": "layer2.0.bn1"}
    expected = wrap_module(resnet, preprocess=TRANSFORM, taps=taps).encode(image=pictures, taps=list(taps))
    encoder = wrap_module(make(copy.deepcopy(resnet)), preprocess=TRANSFORM, taps=taps)
    encoder.encode(image=pictures, taps=["logits"])  # compiled now, if ever
    found = encoder.encode(image=pictures, taps=list(taps))
    assert all(torch.allclose(found[tap], expected[tap], atol=1e-6) for tap in taps)


def test_an_encoder_that_is_compiled_itself_has_the_same_taps(resnet: nn.Module) -> None:
    encoder = wrap_module(resnet, preprocess=TRANSFORM, taps=TAPS).eval()
    inputs = {"image": torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))}
    with torch.no_grad():
        expected = encoder(inputs, list(TAPS))
        encoder.compile(backend="eager")
        found = encoder(inputs, list(TAPS))
    assert all(torch.allclose(found[tap], expected[tap], atol=1e-6) for tap in TAPS)


class Outputs(nn.Module):
    """All kinds of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.idle = nn.Linear(4, 4)
        self.turn = nn.Flatten(0)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.body(image.flatten(2).transpose(1, 2))
        x, _ = self.attention(x, x, x)
        self.turn(x)
        return {"tokens": x, "pooled": x.mean(1), "gates": x.amax(1)}


def outputs(**taps: str) -> ModuleEncoder:
    torch.manual_seed(0)
    named = {tap.replace("_", "."): place for tap, place in taps.items()}
    small = transforms.Compose([transforms.Resize((4, 4)), transforms.ToTensor()])
    return wrap_module(Outputs(), preprocess=small, taps=named)


def test_parts_of_tuples_and_mappings(pictures: list[Image.Image]) -> None:
    encoder = outputs(
        image_embedding=":pooled", image_tokens="attention", image_hidden_0=":tokens", image_attention_0="attention:1"
    )
    found = encoder.encode(image=pictures, taps=encoder.taps())
    assert {tap: list(tensor.shape[1:]) for tap, tensor in found.items()} == {
        "image.embedding": [4],
        "image.tokens": [16, 4],
        "image.hidden.0": [16, 4],
        "image.attention.0": [16, 16],
    }
    assert torch.equal(found["image.tokens"], found["image.hidden.0"])
    assert torch.allclose(found["image.attention.0"].sum(-1), torch.ones(3, 16))


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        ({"image_map": "boddy"}, r"image\.map: Outputs has no module 'boddy'\. Nearest: body"),
        ({"image_map": "idle"}, r"the module 'idle' did not run in one forward"),
        ({"image_embedding": ""}, r"a mapping of tokens, pooled, gates\. Say which.*'PATH:NAME'"),
        ({"image_embedding": ":poled"}, r"a mapping of tokens, pooled, gates; it has no part 'poled'"),
        ({"image_tokens": "attention:2"}, r"a tuple of 2; it has no part '2'"),
        ({"image_embedding": "body"}, r"\[2, 16, 4\] for a batch of 2; an embedding is \[B, D\]"),
        ({"image_hidden_0": "turn"}, r"is \[128\] for a batch of 2 samples; taps are \[B, …\]"),
        ({"text_embedding": ""}, r"'text\.embedding' is no tap of a module of modality 'image'"),
    ],
)
def test_what_cannot_be_tapped_is_said_when_it_is_wrapped(taps: dict[str, str], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        outputs(**taps)


def test_a_module_that_runs_twice_is_no_tap(resnet: nn.Module) -> None:
    with pytest.raises(AdapterError, match=r"'layer1\.0\.relu' ran 2 times"):
        wrap_module(resnet, preprocess=TRANSFORM, taps={"image.map": "layer1.0.relu"})


@pytest.mark.parametrize(
    ("preprocess", "message"),
    [
        (transforms.Resize((64, 64)), r"must return a tensor.*given Image for image"),
        (transforms.ToTensor(), r"tensors of unlike shapes, \[3, 240, 320\], \[3, 320, 240\].*to one size"),
        (
            transforms.Compose([transforms.Grayscale(), transforms.Resize((8, 8)), transforms.ToTensor()]),
            r"ResNet does not take what its preprocess makes of two samples \(image \[2, 1, 8, 8\]\)",
        ),
    ],
)
def test_a_preprocess_that_does_not_fit_is_explained(
    preprocess: Callable[..., Any], message: str, resnet: nn.Module
) -> None:
    with pytest.raises(AdapterError, match=message):
        wrap_module(resnet, preprocess=preprocess)


def test_a_transformers_model_is_wrapped_with_its_tokenizer(tiny_bert: Any) -> None:
    model = transformers.AutoModel.from_pretrained(tiny_bert).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)

    def tokenize(texts: list[str]) -> Any:
        return tokenizer(texts, padding=True, return_tensors="pt")

    taps = {"text.embedding": ":pooler_output", "text.tokens": ":last_hidden_state", "text.hidden.1": "encoder.layer.0"}
    encoder = wrap_module(model, modality="text", preprocess=tokenize, taps=taps)
    texts = ["a sad cat", "the happy dog plays in the grass", "a"]
    with torch.no_grad():
        expected = model(**tokenize(texts), output_hidden_states=True)
    found = encoder.encode(text=texts, taps=[*taps, "text.mask"])
    assert torch.allclose(found["text.embedding"], expected.pooler_output, atol=1e-6)
    assert torch.allclose(found["text.tokens"], expected.last_hidden_state, atol=1e-6)
    assert torch.allclose(found["text.hidden.1"], expected.hidden_states[1], atol=1e-6)
    assert torch.equal(found["text.mask"], tokenize(texts)["attention_mask"].bool())
    assert encoder.embed_dim == 24


def test_wrapping_changes_nothing_and_frozen_is_frozen(resnet: nn.Module, pictures: list[Image.Image]) -> None:
    module = copy.deepcopy(resnet).train()
    random = torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    teacher = wrap_module(module, preprocess=TRANSFORM, taps=TAPS)
    assert module.training
    teacher.freeze().train()
    features = teacher({"image": torch.randn(2, 3, 64, 64)}, list(TAPS))
    assert not module.training
    assert not any(tensor.requires_grad for tensor in features.values())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    torch.set_rng_state(random)


def test_the_gradient_of_a_tap_reaches_the_student(resnet: nn.Module) -> None:
    student = wrap_module(copy.deepcopy(resnet), preprocess=TRANSFORM, taps=TAPS).train()
    student({"image": torch.randn(2, 3, 64, 64)}, ["image.hidden.0"])["image.hidden.0"].square().sum().backward()
    assert student.model.conv1.weight.grad is not None
    assert student.model.layer4[0].conv1.weight.grad is None


def scaled(factor: float) -> Callable[[Image.Image], Tensor]:
    return lambda image: TRANSFORM(image) * factor


def test_the_identity_follows_weights_preprocessing_taps_and_version(resnet: nn.Module) -> None:
    def identity(module: nn.Module = resnet, preprocess: Any = TRANSFORM, **options: Any) -> str:
        return wrap_module(module, preprocess=preprocess, **options).identity()

    other = copy.deepcopy(resnet)
    next(other.parameters()).data.add_(1e-3)
    wider = transforms.Compose([transforms.Resize((72, 72)), transforms.ToTensor()])
    many = [
        identity(),
        identity(other),
        identity(preprocess=wider),
        identity(preprocess=scaled(1)),
        identity(preprocess=scaled(2)),
        identity(taps={"image.embedding": "avgpool"}),
        identity(version="2"),
    ]
    assert len(set(many)) == len(many)
    assert identity() == many[0]
    assert identity(preprocess=scaled(2)) == many[4]


def test_the_teacher_of_a_module_without_parameters_runs() -> None:
    teacher: Encoder = wrap_module(nn.AdaptiveAvgPool2d(1), preprocess=TRANSFORM)
    found = teacher.freeze().encode(image=[Image.new("RGB", (9, 9), (255, 0, 51))])
    assert torch.allclose(found["image.embedding"], torch.tensor([[1.0, 0.0, 0.2]]), atol=1e-6)

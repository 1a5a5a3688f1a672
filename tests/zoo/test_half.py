"""Weights stored as float16 are loaded as float32 by every library, and agree."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from xmodal.errors import ZooError
from xmodal.zoo import download, list_entries, publish


def quiet(_: str) -> None:
    pass


WITHOUT_XMODAL = """
import sys
import numpy, torch, timm
sys.modules["xmodal"] = None
torch.manual_seed(1)
images = torch.randn(4, 3, 64, 64)
outputs = []
for folder in sys.argv[2:]:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert {tensor.dtype for tensor in model.state_dict().values()} <= {torch.float32, torch.int64}
    outputs.append(model(images).detach().numpy())
numpy.savez(sys.argv[1], images=images.numpy(), published=outputs[0], original=outputs[1])
"""


def test_float16_weights_load_as_float32_in_timm_alone_and_in_xmodal_and_agree(run, tmp_path):
    import numpy as np
    import torch
    from safetensors.torch import load_file

    publish(run, tmp_path / "zoo", say=quiet)
    folder = download("tiny-text-to-image", index=tmp_path / "zoo")
    out = tmp_path / "outputs.npz"
    subprocess.run([sys.executable, "-c", WITHOUT_XMODAL, str(out), str(folder), str(run / "student")], check=True)
    outputs = np.load(out)
    scale = np.abs(outputs["original"]).max()
    assert 0 < np.abs(outputs["published"] - outputs["original"]).max() < 1e-2 * scale

    from xmodal import zoo

    encoder = zoo.load("tiny-text-to-image", index=tmp_path / "zoo")
    with torch.no_grad():
        ours = encoder({"image": torch.from_numpy(outputs["images"])}, ["image.embedding"])["image.embedding"]
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), outputs["published"], atol=1e-6 * scale)
    assert encoder.metadata["weights"] == "float16"
    assert encoder.metadata["recipe"] == "tiny-text-to-image"

    tensors = load_file(folder / "model.safetensors")
    types = {tensor.ndim > 1: tensor.dtype for name, tensor in tensors.items() if "num_batches" not in name}
    assert types == {True: torch.float16, False: torch.float32}
    assert (folder / "model.safetensors").stat().st_size < 0.6 * (run / "student/model.safetensors").stat().st_size


def test_full_weights_are_published_untouched(run, tmp_path):
    entry = publish(run, tmp_path / "zoo", half=False, say=quiet)
    published = tmp_path / "zoo" / entry.base
    assert entry.weights == "float32"
    for path in (run / "student").iterdir():
        assert (published / path.name).read_bytes() == path.read_bytes()


def test_a_value_that_float16_does_not_hold_stays_float32_and_one_that_is_not_finite_is_refused(run, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    weights = run / "student/model.safetensors"
    tensors = load_file(weights)
    name = next(name for name, tensor in tensors.items() if tensor.ndim > 1)
    tensors[name].view(-1)[0] = 1e6
    save_file(tensors, weights, {"format": "pt"})
    entry = publish(run, tmp_path / "zoo", say=quiet)
    stored = load_file(tmp_path / "zoo" / entry.base / "model.safetensors")
    assert torch.equal(stored[name], tensors[name])
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(ZooError, match=f"not finite, in {name}"):
        publish(run, tmp_path / "zoo", name="other", say=quiet)
    assert len(list_entries(tmp_path / "zoo")) == 1


def test_a_text_student_in_float16_is_computed_in_float32_by_transformers(tmp_path):
    """transformers would take the type of the first weight if the config said nothing."""
    import torch
    from transformers import AutoModel, BertConfig, BertModel

    from xmodal.zoo.half import store_half

    torch.manual_seed(0)
    model = BertModel(
        BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    )
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config.pop("dtype", None)
    config.pop("torch_dtype", None)
    (tmp_path / "config.json").write_text(json.dumps({**config, "xmodal": {}}))
    assert store_half(tmp_path) == ["model.safetensors"]
    loaded = AutoModel.from_pretrained(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    ids = torch.arange(10)[None]
    difference = loaded.eval()(ids).last_hidden_state - model.eval()(ids).last_hidden_state
    assert 0 < difference.abs().max() < 1e-2
    assert json.loads((tmp_path / "config.json").read_text())["xmodal"]["weights"] == "float16"

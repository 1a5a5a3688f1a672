"""benchmarks/losses.py: every loss has a case, both forms run, and peers compute what ours do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from xmodal.losses import LOSSES

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """The benchmark's modules, which stand beside one another as scripts do."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import loss_cases
    import losses

    return losses, loss_cases


def run(tmp_path, *arguments):
    out = tmp_path / "figures.json"
    command = [sys.executable, FOLDER / "losses.py", "--repeats", "1", "--json", out, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())["rows"]


def test_every_loss_has_a_case_that_runs(benchmark):
    losses, loss_cases = benchmark
    cases = loss_cases.cases(batch=32)
    assert set(cases) == set(LOSSES)
    for name, case in cases.items():
        if name == "universal_logit":
            continue  # sorts of 49 152 words; the test below runs it
        inputs = losses.make_inputs(case, torch.device("cpu"))
        value = LOSSES[name].function(*inputs, **case.options, **losses.fusions(name, case, torch.device("cpu")))
        assert value.isfinite(), name


# Peers that deviate (by a factor of B, by what they pool, by hard labels): tests of the losses say how.
SAME = {
    "kl_divergence",
    "logit_mse",
    "feature_mse",
    "feature_cosine",
    "feature_smooth_l1",
    "attention_transfer",
    "attention_scores",
    "clip_contrastive",
    "siglip",
}


@pytest.mark.parametrize("name", sorted(SAME))
def test_a_peer_computes_the_same(benchmark, name):
    losses, loss_cases = benchmark
    case = loss_cases.cases(batch=32)[name]
    inputs = losses.make_inputs(case, torch.device("cpu"))
    torch.testing.assert_close(LOSSES[name].function(*inputs, **case.options), case.peer()(*inputs), rtol=1e-4, atol=0)


def test_figures_of_single_losses_stand_beside_their_peers(tmp_path):
    alone, paired = run(tmp_path, "--batch", "32", "--only", "universal_logit", "rkd_distance")
    assert (alone["loss"], paired["loss"], paired["peer"]) == ("universal_logit", "rkd_distance", "torchdistill")
    assert alone["ms"] > 0
    assert paired["time_ratio"] > 0
    assert "peer" not in alone


def test_the_sweep_has_a_row_a_batch_size_and_precision(tmp_path):
    rows = run(tmp_path, "--sweep", "--only", "siglip", "--batches", "64", "128")
    assert [(row["batch"], row["products"]) for row in rows] == [
        (batch, products) for batch in (64, 128) for products in ("float32", "bfloat16")
    ]


def test_an_unknown_loss_is_named():
    command = [sys.executable, FOLDER / "losses.py", "--only", "feature_msee"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "feature_msee" in done.stderr

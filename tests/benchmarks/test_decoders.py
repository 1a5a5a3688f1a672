"""benchmarks/decoders.py runs, and the committed figures have every decoder in every row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from xmodal.data.decoders import DECODERS, DEFAULT_DECODER

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def test_it_times_every_decoder_on_every_kind_of_picture(tmp_path):
    out = tmp_path / "figures.json"
    command = [sys.executable, FOLDER / "decoders.py", "--seconds", "0", "--json", out]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    committed = json.loads((FOLDER / "decoders.json").read_text())["rows"]
    assert [(row["pictures"], row["step"]) for row in rows] == [(row["pictures"], row["step"]) for row in committed]
    for row in (*rows, *committed):
        assert set(DECODERS) <= set(row["milliseconds"])
        assert all(figure > 0 for figure in row["milliseconds"].values())


def test_the_default_decoder_is_the_fastest_whole_one_for_photos_in_the_committed_figures():
    rows = json.loads((FOLDER / "decoders.json").read_text())["rows"]
    (figures,) = [row["milliseconds"] for row in rows if row["pictures"] == "JPEG 500 px" and "augment" in row["step"]]
    whole = {name: figures[name] for name in DECODERS if not name.endswith("-draft")}
    assert figures[DEFAULT_DECODER] <= 1.05 * min(whole.values())  # torchvision's may be as fast, but will be removed

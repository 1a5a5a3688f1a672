import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_two_processes_run_a_recipe_whole_and_the_folder_is_one_runs(tiny_recipe, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "xmodal"]
    command += ["distill", str(tiny_recipe), "train.max_steps=3", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for more in ([], ["--resume"]):
        done = subprocess.run([*command, *more], env=environment, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr
    assert "finished" in done.stdout
    training = json.loads((out / "summary.json").read_text())["training"]
    assert (training["steps"], training["samples"], training["bad_samples"]) == (3, 48, 0)
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]

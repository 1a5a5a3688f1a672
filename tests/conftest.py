"""Fixtures shared by the whole suite: small encoders, small shards, quiet libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before any library is imported: no hub, and no thread pool per tokenizer. Two workers of the suite share two cores.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["COLUMNS"] = "160"

import pytest
from hypothesis import settings

# Timings on a shared machine say nothing, and a failure found once must be found again.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Any]]:
    """Runs ``python SCRIPT RANK 2 STORE [INPUTS] OUTPUT`` once a rank, side by side; gives what each has saved."""

    def run(script: Path, inputs: Any = None) -> list[Any]:
        import torch

        folder, root = tmp_path_factory.mktemp(script.stem), Path(__file__).parents[1]
        files = [folder / "store"]
        if inputs is not None:
            torch.save(inputs, folder / "inputs.pt")
            files.append(folder / "inputs.pt")
        processes = [
            subprocess.Popen(
                [sys.executable, script, str(rank), "2", *files, folder / f"{rank}.pt"],
                stderr=subprocess.PIPE,
                text=True,
                cwd=root,
                env={**os.environ, "PYTHONPATH": str(root)},
            )
            for rank in range(2)
        ]
        try:  # generous: on a busy machine, importing torch alone can take a minute
            errors = [process.communicate(timeout=400)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
        return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]

    return run

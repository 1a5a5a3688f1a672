"""Fixtures shared by the whole suite: small encoders, small shards, quiet libraries."""

from __future__ import annotations

import os

# Before any library is imported: no hub, and no thread pool per tokenizer. Two workers of the suite share two cores.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["COLUMNS"] = "160"

from hypothesis import settings

# Timings on a shared machine say nothing, and a failure found once must be found again.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")

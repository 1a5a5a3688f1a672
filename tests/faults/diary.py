"""``python diary.py FILE distill …``: xmodal, which writes down the keys of every batch it trains on.

A line is a JSON object: how many ranks there are, this one's number, the step and the keys. One write a line, before
the step, so that a killed run leaves whole lines and none that was trained on is missing.
"""

from __future__ import annotations

import json
import os
import sys

from xmodal.cli import main
from xmodal.schemes.offline import Offline


def keep(file: int) -> None:
    """Have every step of training write its line."""
    step = Offline.step

    def recorded(self, batch, progress):
        line = {"ranks": self.world.size, "rank": self.world.rank, "step": progress.step, "keys": batch["key"]}
        os.write(file, json.dumps(line).encode() + b"\n")
        return step(self, batch, progress)

    Offline.step = recorded


if __name__ == "__main__":
    keep(os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    sys.exit(main(sys.argv[2:]))

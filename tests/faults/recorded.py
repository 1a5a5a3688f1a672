"""`xmodal distill` that also writes down which keys each batch of training delivered: run by the fault tests.

    python tests/faults/recorded.py RECORD RECIPE --out DIR …

Appends to ``RECORD-RANK.jsonl`` a line ``{position, keys}`` for every batch before the loop gets it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from xmodal.cli import main
from xmodal.data.stream import TrainStream

record = Path(f"{sys.argv.pop(1)}-{os.environ.get('RANK', '0')}.jsonl")
deliver = TrainStream._deliver


def recording(self):
    for batch in deliver(self):
        # state() counts the batch as received already
        line = {"position": self.state()["position"] - self.batch_size, "keys": batch["key"]}
        with record.open("ab") as file:  # one write a line: a killed run leaves whole lines, or one that is cut
            file.write(json.dumps(line).encode() + b"\n")
        yield batch


TrainStream._deliver = recording

if __name__ == "__main__":
    sys.argv.insert(1, "distill")
    main()

"""``python -m xmodal`` and ``torchrun -m xmodal``: the command line."""

from __future__ import annotations

import sys

from xmodal.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""The report of a run: one self-contained HTML page, made from what the run folder holds and nothing else."""

from __future__ import annotations

from xmodal.report.page import write_report

__all__ = ["write_report"]

"""The report: one self-contained HTML page of runs and studies, and what two runs differ in."""

from robust.report.comparing import compare_runs
from robust.report.page import build_page, write_page

__all__ = ["build_page", "compare_runs", "write_page"]

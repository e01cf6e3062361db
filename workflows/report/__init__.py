"""The report of a run: one self-contained HTML page that shows what happened, for people who look rather than read."""

from workflows.report.page import render

__all__ = ["render"]

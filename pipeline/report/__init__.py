"""The report of a run: one HTML file that needs nothing else, made from what is in the output prefix.

gather.py    reads summaries, commits, the quarantine table
samples.py   a few videos in pictures and timelines, by task
figures.py   charts, as plotly's JSON
render.py    the page
"""

from pipeline.report.render import build, write

__all__ = ["build", "write"]

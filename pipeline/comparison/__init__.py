"""How two runs of a task differ: runs.py pairs their videos, the rest measures, judges (verdict.py) and tells."""

"""What runs leave behind: commits, quarantine, and the tables of flow and recognition, with their readers."""

from pipeline.records.flow import read_flow, read_flow_file

__all__ = ["read_flow", "read_flow_file"]

"""What runs leave behind: commits, quarantine, and the tables of flow and recognition, with their readers."""

from pipeline.records.flow import read_flow, read_flow_file
from pipeline.records.recognition import read_recognition, read_recognition_file

__all__ = ["read_flow", "read_flow_file", "read_recognition", "read_recognition_file"]

"""What runs leave behind: commits, quarantine, and tables of decisions, flow and recognition, with their readers."""

from pipeline.records.decisions import read_decisions, read_decisions_file
from pipeline.records.flow import read_flow, read_flow_file
from pipeline.records.recognition import read_recognition, read_recognition_file

__all__ = [
    "read_decisions",
    "read_decisions_file",
    "read_flow",
    "read_flow_file",
    "read_recognition",
    "read_recognition_file",
]

"""Measuring predictions against ground truth: flow_layouts finds the truth, flow_sources the predictions."""

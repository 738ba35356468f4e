"""Networks, one folder a paper, and the table of their weights. Imports torch only."""

"""What a run costs: requests to the store, state, temporary bytes, memory; measured, and counted up for a night.

    make costs                                  # three jobs: about ten minutes; results and table in out/costs
    python -m tests.costs --task flow           # one of them
    python -m tests.costs --missing             # what an interrupted measurement lacks
    python -m tests.costs --table               # the table from what has been measured

proxy.py     counts requests by kind and by what they are for
night.py     the rule by which they grow (pure): fixed, a video, a clip, an earlier video; and what it foresees
lab.py       the runs: small ones that give the rule, a real one that gives bytes and memory
table.py     Markdown for the README
"""

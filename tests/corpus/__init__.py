"""The mutation corpus: a thousand damaged videos, each of which ends committed with correct frames or in quarantine.

    make corpus                                    all of it (some minutes on two cores)
    python -m tests.corpus --count 100 --seed 5    some of it

Files are made from intact ones (seeds.py) by mutations of a seeded random generator (mutate.py): the same seed and
number give the same file. A process under limits of memory and time (worker.py) does with each what a run does: probe,
plan, decode, interpolate, encode, join, verify. judge.py says what is correct.
"""

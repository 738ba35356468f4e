"""The fault matrix: three jobs on a cluster of three raylets with a real S3 server, and everything that can go wrong.

    make chaos                                                    all of it (about an hour on two cores)
    python -m tests.chaos --task flow --fault 503 --fault resets  some of it
    python -m tests.chaos --table-only                            the table of what has been run

Each case runs a job that a user would run, strikes, lets it end, runs it again where a run may end, and compares what
is in the bucket with what an undisturbed run makes: by pyarrow and PyAV, not by our readers. Results are kept as JSON
lines, so that a matrix may be run in pieces.
"""

#!/bin/sh
# Runs a job as a night's entrypoint: run.sh jobs/flow.py INPUT OUTPUT …
# A run that finished with some input in quarantine (exit code 3) has succeeded: trying it again would change nothing.
cd "$(dirname "$0")/../.." || exit 1
"${PYTHON:-python}" "$@"
code=$?
if [ "$code" -eq 3 ]; then
    echo "finished; some input is in quarantine: see the report and the quarantine table" >&2
    exit 0
fi
exit "$code"

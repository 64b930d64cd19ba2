#!/usr/bin/env bash
# repeat_tests.sh PYTHON [TIMES] [PYTEST ARGUMENTS]: the tests marked `alone`, TIMES times (20), until one fails.
set -uo pipefail
python=$1
shift
times=20
[[ ${1:-} =~ ^[0-9]+$ ]] && { times=$1; shift; }

for ((run = 1; run <= times; run++)); do
    echo "===== run $run of $times"
    "$python" -m pytest -q -x -m alone -n 3 --dist worksteal "$@" || exit 1
done

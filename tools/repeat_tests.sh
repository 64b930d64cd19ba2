#!/usr/bin/env bash
# repeat_tests.sh PYTHON [TIMES] [PYTEST ARGUMENTS]: the tests marked `alone`, TIMES times (20), until one fails.
set -uo pipefail
python=$1
shift
times=20
workers=$((3 * $(getconf _NPROCESSORS_ONLN))) # as in the last step of run_tests.sh
[[ ${1:-} =~ ^[0-9]+$ ]] && { times=$1; shift; }

for ((run = 1; run <= times; run++)); do
    echo "===== run $run of $times"
    "$python" -m pytest -q -x -m alone -n "$workers" --dist worksteal "$@" || exit 1
done

#!/usr/bin/env bash
# run_tests.sh PYTHON [PYTEST ARGUMENTS]: all tests, in two steps. Exits with 1 if a test of either step failed.
# First most tests, in several processes and with coverage: they wait for servers and clocks most of the time.
# Then the tests marked `alone`, two at a time: more neighbours or a tracer would distort what they measure.
set -uo pipefail
python=$1
shift

failed=0 empty=0

step() { # step PYTEST ARGUMENTS...
    "$python" -m pytest "$@"
    case $? in
        0) ;;
        5) empty=$((empty + 1)) ;; # ARGS="-k name" may choose tests of one step only.
        *) failed=1 ;;
    esac
}

step -q -m 'not alone' -n auto --dist worksteal --cov --cov-report term "$@"
step -q -m alone -n 2 --dist worksteal "$@"
[ $empty -lt 2 ] || { echo 'no test was selected' >&2; failed=1; }
exit $failed

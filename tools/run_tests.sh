#!/usr/bin/env bash
# run_tests.sh PYTHON [PYTEST ARGUMENTS]: all tests, in three steps. Exits with 1 if a test of any step failed.
# 1. The tests that coverage is measured with: the unit tests, and those of the stores.
# 2. The faults, the scripts and the documents, without a tracer: it would double their CPU time, and faults keep to the
#    clock.
# 3. The tests marked `alone`, two at a time: more neighbours would distort what they measure.
# Paths among the arguments take the place of these folders.
set -uo pipefail
python=$1
shift

covered=(tests/unit tests/store tests/bench) uncovered=(tests/faults tests/lua tests/docs) all=(tests)
for argument in "$@"; do
    if [ -e "${argument%%::*}" ]; then covered=() uncovered=() all=(); fi
done

failed=0 empty=0 steps=0

step() { # step PYTEST ARGUMENTS...
    steps=$((steps + 1))
    "$python" -m pytest -q "$@"
    case $? in
        0) ;;
        5) empty=$((empty + 1)) ;; # ARGS="-k name" may choose tests of one step only.
        *) failed=1 ;;
    esac
}

step -m 'not alone' -n auto --dist worksteal --cov --cov-report term "${covered[@]}" "$@"
[ ${#uncovered[@]} -eq 0 ] || step -m 'not alone' -n auto --dist worksteal "${uncovered[@]}" "$@"
step -m alone -n 2 --dist worksteal "${all[@]}" "$@"
[ $empty -lt $steps ] || { echo 'no test was selected' >&2; failed=1; }
exit $failed

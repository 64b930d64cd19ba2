#!/usr/bin/env bash
# run_tests.sh PYTHON [PYTEST ARGUMENTS]: the tests, in three steps. Exits with 1 if a test of any step failed.
# 1. The tests that coverage is measured with: the unit tests, and those of the stores. They compute.
# 2. The faults, the scripts and the documents, without a tracer: it would double their CPU time, and faults keep to the
#    clock. They wait more than they compute, so more of them run at once.
# 3. The tests marked `alone`, of which few run at once: neighbours would distort what they measure.
# Those marked `long` are left out, unless a path names them; `make types` runs tests/docs/test_types.py. Paths among the
# arguments take the place of these folders.
set -uo pipefail
python=$1
shift

cores=$(getconf _NPROCESSORS_ONLN)
# A tracer slows these down most: they step through coroutines, make thousands of examples, or import large packages. The
# last one starts processes, which no tracer follows.
untraced=(
    tests/store/test_advice.py tests/store/test_lease_cancellation.py tests/store/test_state_machine.py
    tests/store/test_turn_together.py tests/unit/values/test_forms.py tests/unit/values/test_frozen.py
    tests/unit/wire/test_resp.py tests/unit/test_demo.py
)
covered=(tests/unit tests/store tests/bench "${untraced[@]/#/--ignore=}")
uncovered=(tests/faults tests/cluster tests/sentinel tests/lua tests/docs tests/deploy "${untraced[@]}" --ignore=tests/docs/test_types.py)
# Only files with such a test: to collect the others takes longer than some tests do.
mapfile -t alone < <(grep -rlE 'mark\.alone' tests --include='test_*.py')
short=' and not long'
for argument in "$@"; do
    if [ -e "${argument%%::*}" ]; then covered=() uncovered=() alone=() short=; fi
done

failed=0 empty=0 steps=0

step() { # step WORKERS PYTEST ARGUMENTS...
    local workers=$1
    shift
    steps=$((steps + 1))
    HISTSTORE_TEST_WORKERS=${HISTSTORE_TEST_WORKERS:-$workers} "$python" -m pytest -q -n auto --dist worksteal "$@"
    case $? in
        0) ;;
        5) empty=$((empty + 1)) ;; # ARGS="-k name" may choose tests of one step only.
        *) failed=1 ;;
    esac
}

step $((2 * cores)) -m "not alone$short" --cov --cov-report term "${covered[@]}" "$@"
[ ${#uncovered[@]} -eq 0 ] || step $((4 * cores)) -m "not alone$short" "${uncovered[@]}" "$@"
step $((3 * cores)) -m "alone$short" "${alone[@]}" "$@"
[ $empty -lt $steps ] || { echo 'no test was selected' >&2; failed=1; }
exit $failed

#!/bin/sh
# Makes .venv with the first Python that can, or says what is missing. Usage: tools/venv.sh .venv [python]
set -eu
venv=$1
wanted=${2:-}

# A .venv that works is kept: only its packages are brought up to date.
if "$venv/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
    exit 0
fi

seen=
for python in ${wanted:-python3.13 python3.12 python3.11 python3 python}; do
    # Asked, not trusted: a pyenv shim exists but fails, and `python3` may be too old.
    version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || continue
    seen="$seen $python=$version"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || continue
    if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        no_venv="$python"
        continue
    fi
    echo "making $venv with $python ($version)"
    rm -rf "$venv"
    exec "$python" -m venv "$venv"
done

if [ -n "${no_venv:-}" ]; then
    minor=$("$no_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "error: $no_venv has no venv module with ensurepip, which Debian and Ubuntu package apart." >&2
    echo "       Install it (apt-get install python$minor-venv), or name another: make PYTHON=/path/to/python3" >&2
else
    echo "error: histstore needs Python 3.11 or newer; found:${seen:- none}." >&2
    echo "       Install one, or name it: make PYTHON=/path/to/python3" >&2
fi
exit 1

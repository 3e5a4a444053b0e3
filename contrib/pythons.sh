#!/bin/sh
# pythons.sh: every CPython >= 3.10 of this machine that can make virtual environments, oldest first,
#             one of each minor version: `3.10 /path/to/python3.10`
# pythons.sh default: the path of `python3` if it is one of them, else of the newest one
set -eu

candidates() {
    command -v python3 || :
    for minor in 10 11 12 13 14 15 16 17 18 19; do
        command -v "python3.$minor" || :
    done
    if command -v pyenv >/dev/null; then
        ls -d "$(pyenv root)"/versions/3.*/bin/python3 2>/dev/null || :
    fi
}

# A shim on PATH may stand for a version that is not chosen, and Debian's python3 may lack ensurepip: only running tells.
describe() {
    "$1" -I -c '
import sys, venv, ensurepip
if sys.version_info >= (3, 10) and sys.version_info.releaselevel == "final" and sys.implementation.name == "cpython":
    print("%d.%d" % sys.version_info[:2], sys.executable)
' 2>/dev/null || :
}

usable() {
    candidates | while read -r path; do describe "$path"; done
}

if [ "${1:-}" = default ]; then
    found=$(usable)
    if [ -z "$found" ]; then
        echo "no Python >= 3.10 with venv was found; install one, or name it: make PYTHON=/path/to/python3" >&2
        exit 1
    fi
    chosen=$(describe "$(command -v python3 || echo python3)")
    [ -n "$chosen" ] || chosen=$(echo "$found" | sort -t . -k 2n | tail -n 1)
    echo "${chosen#* }"
else
    usable | sort -t . -k 2n -s -u -k 1,1
fi

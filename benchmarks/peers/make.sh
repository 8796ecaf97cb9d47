#!/usr/bin/env bash
# Makes the virtual environment of the peers in $ITEMIC_PEERS (default .peers): bash benchmarks/peers/make.sh
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
peers="${ITEMIC_PEERS:-$here/../../.peers}"
python="${PYTHON:-}"
for name in python3.11 python3.12 python3; do
    [ -n "$python" ] || ! command -v "$name" >/dev/null || python="$name"
done
[ -n "$python" ] && "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || {
    echo "error: the peers need Python 3.11 or 3.12 (numpy 1.26). Name one: make peers PYTHON=/path/to/python3.11"
    exit 1
}
[ -x "$peers/bin/python" ] || "$python" -m venv "$peers"
"$peers/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
"$peers/bin/python" -c "import faiss, implicit, recbole, torch; print('peers ready:', 'recbole', recbole.__version__)"

#!/usr/bin/env bash
# Makes the virtual environments of the peers, $ITEMIC_PEERS (default .peers) and, beside it with -rectools at the end of
# its name, that of RecTools, which needs newer libraries than RecBole: bash benchmarks/peers/make.sh
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
make() { # environment, requirements
    [ -x "$1/bin/python" ] || "$python" -m venv "$1"
    "$1/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/$2"
}
make "$peers" requirements.txt
make "$peers-rectools" rectools.txt
"$peers/bin/python" -c "import faiss, implicit, recbole, torch; print('peers ready:', 'recbole', recbole.__version__)"
"$peers-rectools/bin/python" -c "import rectools; print('peers ready:', 'rectools', rectools.__version__)"

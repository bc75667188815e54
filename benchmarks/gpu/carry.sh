#!/usr/bin/env bash
# The wheels that a lent GPU machine lacks, made here, where there is a package index, for there, where there is none:
#   benchmarks/gpu/carry.sh DIR
# Afterwards DIR has them, no other wheels, and in the file `commit` the commit that they were made for. There:
#   python3 -m pip install --no-index --no-deps --target /tmp/site DIR/*.whl
#   export PYTHONPATH=/tmp/site
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
python=$root/.venv/bin/python
[ -x "$python" ] || python=python3
python=${PYTHON:-$python}

fail() {
  echo "carry.sh: $1" >&2
  exit 2
}

[ $# -eq 1 ] && [ -n "$1" ] || fail "usage: benchmarks/gpu/carry.sh DIR, the folder for the wheels"
[ -d "$1" ] || [ ! -e "$1" ] || fail "$1 is a file; name a folder for the wheels: benchmarks/gpu/carry.sh DIR"
git -C "$root" rev-parse --quiet --verify HEAD >/dev/null 2>&1 || fail "$root is no git repository with a commit"
"$python" -P -c 'import packaging, pip, tomllib' 2>/dev/null ||
  fail "$python is no Python 3.11 or newer with pip and packaging; run \`make setup\`, or set PYTHON to one"

rm -f -- "$1/commit"
"$python" -P "$here/gpu_day/carried.py" -- "$1"
commit=$(git -C "$root" rev-parse HEAD)
[ -z "$(git -C "$root" status --porcelain)" ] || commit=$commit+changes
echo "$commit" >"$1/commit"

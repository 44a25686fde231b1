#!/usr/bin/env bash
# The tests of the Python package with LIBRARY, by the first of these that has pytest and numpy: $ANYFP8_PYTHON, the
# environment of ./dev venv, python3, the system's. Ends with 77 where none has. What an interpreter lacks (torch, ...)
# is said in the first lines, and its tests skip. Usage: python_test.sh LIBRARY [PYTEST ARGUMENTS]
set -euo pipefail
library=$(readlink -f "$1")
root=$(dirname "$(readlink -f "$0")")/..
shift
export ANYFP8_LIBRARY=$library PYTHONPATH=$root/python${PYTHONPATH:+:$PYTHONPATH} PYTHONDONTWRITEBYTECODE=1

models=$root/../shared/models
if [[ -z ${ANYFP8_REFERENCE_MODELS:-} && -d $models ]]; then export ANYFP8_REFERENCE_MODELS=$models; fi
for python in "${ANYFP8_PYTHON:-}" "$root/build-venv/bin/python" python3 /usr/bin/python3; do
  if [[ -n $python ]] && "$python" -c 'import numpy, pytest' 2>/dev/null; then
    exec "$python" -m pytest -p no:cacheprovider -q -rs "$@" "$root/python/tests"
  fi
done
echo "python_test: SKIPPED, as no interpreter here has pytest and numpy; ./dev setup or ./dev venv installs them"
exit 77

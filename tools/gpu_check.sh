#!/usr/bin/env bash
# Check the GPU of this machine, and write one Markdown report. One GPU is enough. Sets up .venv first.
#
#   tools/gpu_check.sh [--wheels DIR] [--out FILE.md] [OPTIONS OF tools/benchmarks/gpu_check.py]
#
# With --wheels, packages are installed from the files in DIR alone: for a machine without a network.
# PYTHON=python3 uses the environment of that interpreter as it is, plus the wheels of DIR. On a
# machine without a GPU every part is skipped, with its reason.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # for sh SCRIPT
set -euo pipefail
root=$(CDPATH= cd "$(dirname "$0")/.." && pwd)
wheels=
arguments=()
while [ $# -gt 0 ]; do
    case $1 in
        --wheels)
            if [ ! -d "${2:-}" ]; then
                echo "error: Invalid --wheels=${2:-}. Must be a folder of wheels." >&2
                exit 2
            fi
            wheels=$(CDPATH= cd "$2" && pwd)
            shift 2
            ;;
        *)
            arguments+=("$1")
            shift
            ;;
    esac
done
if [ -n "$wheels" ]; then
    # pip reads these, also in setup_env.sh.
    export PIP_NO_INDEX=1 PIP_FIND_LINKS=$wheels
fi

python=${PYTHON:-$root/.venv/bin/python}
pip() { "$python" -m pip --disable-pip-version-check install --quiet --no-deps "$@"; }
if [ -z "${PYTHON:-}" ]; then
    "$root/tools/setup_env.sh"
    # To compare with. It is no requirement.
    "$python" -c 'import importlib.util as u, sys, torch
sys.exit(torch.cuda.is_available() and not u.find_spec("timm"))' ||
        pip timm==1.0.31 || echo "== timm cannot be installed, and is not compared with"
elif [ -n "$wheels" ]; then
    pip "$wheels"/*.whl
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "$python" "$root/tools/benchmarks/gpu_check.py" ${arguments[@]+"${arguments[@]}"}

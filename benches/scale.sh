#!/usr/bin/env bash
# Times and memory at the size of real models, each beside a peer in the same run, and where a bar is missed.
# Usage: benches/scale.sh [--quick | --large] [--rows TEXT]... [--times N] [--scratch FOLDER] [--table FILE] [--plot FILE]
# Needs bash and python3 with numpy. Rows whose peer is missing say so: b3sum (B3SUM names one), onnx, torch with peft.
# TRTMUT names another binary than target/release/trtmut, which is built where it is not named; PYTHON another python3.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ -z "${TRTMUT:-}" ]; then
    (cd "$here/.." && cargo build --release --locked --quiet --bin trtmut)
    export TRTMUT="$here/../target/release/trtmut"
fi
python=${PYTHON:-python3}
"$python" -c 'import numpy' 2>/dev/null || { echo "numpy is needed: $python -m pip install numpy" >&2; exit 3; }
export PYTHONDONTWRITEBYTECODE=1
exec "$python" "$here/scale/main.py" "$@"

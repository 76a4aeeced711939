#!/usr/bin/env bash
# Runs docs/from_diffusers.py, with torch and diffusers, on a wheel of this checkout. torch's wheel brings 5.6 GB, so `.ci/run` does it
# only with TRTMUT_TEST_DIFFUSERS=1, and only where 15 GB are free. PYTHON names an interpreter that has the packages already.
set -euo pipefail
cd "$(dirname "$0")/.."

not_run() {
    echo "test-diffusers: NOT RUN: $1" >&2
    exit 0
}
if [ -z "${PYTHON:-}" ]; then
    [ "${TRTMUT_TEST_DIFFUSERS:-}" = 1 ] || not_run "TRTMUT_TEST_DIFFUSERS=1 asks for it; it installs torch and diffusers (6 GB)"
    command -v python3 >/dev/null || not_run "there is no python3"
    mkdir -p .deps
    python=.deps/diffusers/bin/python
    if [ ! -e .deps/diffusers/whole ]; then
        free=$(df --output=avail -k . | tail -n 1)
        [ "$free" -ge $((15 * 1024 * 1024)) ] || not_run "15 GB have to be free, and $((free / 1024 / 1024)) are"
        rm -rf .deps/diffusers
        python3 -m venv .deps/diffusers
        "$python" -m pip install --quiet --disable-pip-version-check torch torchvision diffusers peft transformers onnx onnxscript safetensors
        touch .deps/diffusers/whole
    fi
    PYTHON="$PWD/$python"
fi

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
scripts/wheel.sh --profile dev --out "$work"
# Beside the interpreter's packages, not among them.
"$PYTHON" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --target "$work/site" "$work"/trtmut-*.whl
export PYTHONPATH="$work/site" HF_HUB_OFFLINE=1
"$PYTHON" docs/from_diffusers.py
TRTMUT_FIXTURES="$PWD/fixtures" "$PYTHON" -m unittest discover --quiet --start-directory python/tests

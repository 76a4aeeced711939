#!/usr/bin/env bash
# Brings what some tests compare with or talk to into .deps/ (not committed): the onnxruntime wheel, the ONNX project's
# single-operator tests, moto, a server that speaks S3, and Triton's client for its protobuf definitions. Quick when they are there already. Where python3, pip or the network is missing it says so and
# succeeds: the tests that need them are then reported as ignored.
set -euo pipefail

onnxruntime='onnxruntime>=1.32'
# The newest release whose wheel still carries the data.
onnx='onnx==1.22.0'
moto='moto[s3]==5.2.5'
# Triton's own definition of a model's configuration, as Python reads it.
triton='tritonclient==2.71.0'

cd "$(dirname "$0")/.."
mkdir -p .deps

missing() {
    echo "fetch-test-deps: $1; the tests that need it will be ignored" >&2
    exit 0
}

have_runtime() { compgen -G '.deps/onnxruntime/onnxruntime/capi/*onnxruntime*' >/dev/null; }
have_cases() { [ "$(cat .deps/onnx-node-tests/version 2>/dev/null)" = "$onnx" ]; }
have_moto() { [ "$(cat .deps/moto/version 2>/dev/null)" = "$moto" ]; }
have_triton() { [ "$(cat .deps/triton/version 2>/dev/null)" = "$triton" ]; }

if have_runtime && have_cases && have_moto && have_triton; then
    exit 0
fi
command -v python3 >/dev/null || missing "there is no python3"
python3 -m pip --version >/dev/null 2>&1 || missing "python3 has no pip"

pip() { python3 -m pip --disable-pip-version-check --quiet "$@"; }
# Unfinished work goes into a folder of its own and is moved when it is whole.
work="$(mktemp -d .deps/work.XXXXXX)"
trap 'rm -rf "$work"' EXIT

if ! have_runtime; then
    if pip install --no-deps --only-binary :all: --target "$work/onnxruntime" "$onnxruntime" 2>"$work/log"; then
        rm -rf .deps/onnxruntime
        mv "$work/onnxruntime" .deps/onnxruntime
    else
        tail -n 2 "$work/log" >&2
        missing "onnxruntime could not be fetched"
    fi
fi

if ! have_cases; then
    # Any platform's wheel will do: only data is taken out of it.
    if pip download --no-deps --only-binary :all: --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
        --python-version 3.12 --dest "$work" "$onnx" 2>"$work/log"; then
        python3 - "$work" <<'PY'
import glob, os, sys, zipfile
work = sys.argv[1]
with zipfile.ZipFile(glob.glob(os.path.join(work, "onnx-*.whl"))[0]) as wheel:
    names = [n for n in wheel.namelist() if n.startswith("onnx/backend/test/data/node/")]
    wheel.extractall(os.path.join(work, "cases"), names)
PY
        echo "$onnx" >"$work/cases/version"
        rm -rf .deps/onnx-node-tests
        mv "$work/cases" .deps/onnx-node-tests
    else
        tail -n 2 "$work/log" >&2
        missing "the ONNX backend tests could not be fetched"
    fi
fi

if ! have_moto; then
    # Its own extra `server` also brings what the other services need; flask is all that S3 does.
    if pip install --root-user-action ignore --only-binary :all: --no-compile --target "$work/moto" \
        "$moto" flask flask-cors 2>"$work/log"; then
        echo "$moto" >"$work/moto/version"
        rm -rf .deps/moto
        mv "$work/moto" .deps/moto
    else
        tail -n 2 "$work/log" >&2
        missing "moto could not be fetched"
    fi
fi

if ! have_triton; then
    # Of what it depends on, the definitions need protobuf alone.
    if pip install --root-user-action ignore --only-binary :all: --no-compile --no-deps --target "$work/triton" \
        "$triton" protobuf 2>"$work/log"; then
        echo "$triton" >"$work/triton/version"
        rm -rf .deps/triton
        mv "$work/triton" .deps/triton
    else
        tail -n 2 "$work/log" >&2
        missing "Triton's client could not be fetched"
    fi
fi

#!/usr/bin/env bash
# Runs every test. Fetches first what some tests compare with (onnxruntime, the ONNX backend tests, moto, TensorRT-RTX) into .deps/, where python3
# and pip can; tests that miss something are reported as ignored, with the reason.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/fetch-test-deps.sh
scripts/fetch-rtx.sh
exec cargo test --locked "$@"

#!/usr/bin/env bash
# Puts TensorRT-RTX for CUDA 12 into .deps/tensorrt_rtx, from PyPI (89 MB). It builds engines ahead of time on machines without
# a GPU, so that the tests can hold the real library to account. NVIDIA's licence for it comes with the wheel.
set -euo pipefail
cd "$(dirname "$0")/.."
version=1.7.1.116
out=.deps/tensorrt_rtx
[[ -e $out/$version ]] && exit 0
command -v python3 >/dev/null && python3 -m pip --version >/dev/null 2>&1 || { echo "no python3 with pip: the TensorRT-RTX tests will be ignored"; exit 0; }
rm -rf "$out"
mkdir -p "$out"
if python3 -m pip install --quiet --no-deps --no-compile --disable-pip-version-check --root-user-action ignore \
  --target "$out" "tensorrt-rtx-cu12-libs==$version"; then
  touch "$out/$version"
else
  rm -rf "$out"
  echo "pip cannot fetch TensorRT-RTX: its tests will be ignored"
fi

#!/usr/bin/env bash
# The tests that need an NVIDIA GPU (tests/gpu/).
#
#   scripts/gpu-test.sh [FILTER…]          on a machine with a GPU, Rust and TensorRT (TRTMUT_TENSORRT names its folder)
#   scripts/gpu-test.sh pack FOLDER        where Rust is: puts the test binary, the trtmut binary and the fixtures into FOLDER
#   FOLDER/gpu-test.sh LIBRARIES [FILTER…] where the GPU is: runs what was packed, with the TensorRT libraries in LIBRARIES
#   FOLDER/benches/gpu/refit.py LIBRARIES  where the GPU is: times refits (benches/gpu/README.md)
#
# A FILTER is a part of a trial's name: dit/ clip_text/ vae_decoder/ sd_unet/ f32 fp16 latency flow errors/ memory/ rtx/ lean/; the
# whole name but for what stands in parentheses, with a space and a parenthesis behind it, is one trial: 'dit/flow ('.
# The packed binaries need glibc 2.36 (Debian 12, Ubuntu 24.04) when they are built on Debian 12. TRTMUT_PROFILE=dev builds
# faster and tests as fast, because the work is the GPU's; times of refits are to be taken with the default, release.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
if [[ -e $here/gpu ]]; then # packed
  libraries=$(cd "${1:?usage: gpu-test.sh LIBRARIES [FILTER…]}" && pwd)
  shift
  # 8.6's builder looks for its resource library by bare name.
  export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  export TRTMUT_TENSORRT=$libraries TRTMUT_TEST_FIXTURES=$here/fixtures
  status=0
  if (($# == 0)); then
    "$here/gpu" --ignored || status=$?
  else
    for filter in "$@"; do "$here/gpu" --ignored "$filter" || status=$?; done
  fi
  exit "$status"
fi

cd "$here/.."
profile=${TRTMUT_PROFILE:-release}
if [[ ${1:-} != pack ]]; then
  for filter in "${@:-}"; do cargo test --locked --profile "$profile" --test gpu -- --ignored ${filter:+"$filter"}; done
  exit
fi

out=${2:?usage: gpu-test.sh pack FOLDER}
mkdir -p "$out"
cargo build --locked --profile "$profile" --bin trtmut
binary=$(cargo test --locked --profile "$profile" --test gpu --no-run --message-format=json |
  sed -n 's/.*"executable":"\([^"]*\/gpu-[^"]*\)".*/\1/p')
folder=$profile
[[ $profile == dev ]] && folder=debug
strip -o "$out/gpu" "$binary"
strip -o "$out/trtmut" "${CARGO_TARGET_DIR:-target}/$folder/trtmut"
cp scripts/gpu-test.sh "$out/"
for fixture in dit clip_text vae_decoder sd_unet; do
  mkdir -p "$out/fixtures/$fixture"
  for file in fixtures/"$fixture"/*.{onnx,json,safetensors}; do
    # Of the newer exporter's files only one is used, to see it refused.
    [[ $file == *.dynamo.* && $file != */dit/model.dynamo.onnx ]] || cp "$file" "$out/fixtures/$fixture/"
  done
done
mkdir -p "$out/benches/gpu"
cp benches/gpu/{peer.cpp,refit.py} "$out/benches/gpu/"
du -sh "$out"

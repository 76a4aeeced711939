#!/usr/bin/env bash
# Peak anonymous memory of each command on a generated case of a few GB, which is deleted afterwards. The figures that are kept
# stand in docs/measurements.md.
# Usage: benches/memory.sh [MATRICES] [SIDE]     default: 64 matrices of 4096x4096 f32, 64 MiB each, 4 GiB in all
# TRTMUT names another binary than target/debug/trtmut, SCRATCH another place for 16 GiB of files.
set -euo pipefail
cd "$(dirname "$0")/.."
matrices=${1:-64}
side=${2:-4096}
# The dependencies are optimised in every profile; so that the times mean something, this crate is here too.
export CARGO_PROFILE_DEV_OPT_LEVEL=3
cargo build --quiet --bin trtmut --example large_case
work=$(mktemp -d "${SCRATCH:-/tmp}/trtmut-memory.XXXXXX")
trap 'rm -rf "$work"' EXIT
# Copies, because tests may build the same names meanwhile.
binary="$work/trtmut"
generate="$work/large_case"
cp "${TRTMUT:-target/debug/trtmut}" "$binary"
cp target/debug/examples/large_case "$generate"
cd "$work"
"$generate" . "$matrices" "$side"

largest=$((4 * side * side))
limit=$(((256 << 20) + 4 * largest))
mib() { echo "$(($1 >> 20)) MiB"; }
echo "case: $(mib $((matrices * largest))), largest tensor $(mib $largest), limit $(mib $limit)"

# Samples RssAnon, which counts neither mapped files nor the page cache.
measure() {
    local peak=0 now start end
    start=$(date +%s.%N)
    "$binary" -q "$@" >out 2>err &
    local pid=$!
    while kill -0 $pid 2>/dev/null; do
        now=$(awk '/^RssAnon:/ {print $2 * 1024}' "/proc/$pid/status" 2>/dev/null || true)
        if [ "${now:-0}" -gt "$peak" ]; then peak=$now; fi
        sleep 0.01
    done
    wait $pid || { cat err; return 1; }
    end=$(date +%s.%N)
    printf '%-64s %10s %7.1f s\n' "trtmut $*" "$(mib "$peak")" "$(echo "$end - $start" | bc)"
    if [ "$peak" -gt "$limit" ]; then over=1; fi
}
over=0
measure build model.onnx --backend cpu
measure map engine.plan
measure refit engine.plan changed.safetensors --dry-run
measure refit engine.plan changed.safetensors
measure refit engine.plan --base
measure build model.onnx --backend cpu --weights base.safetensors
measure refit engine.plan changed.safetensors
exit $over

#!/usr/bin/env bash
# Looks at the reports of `trtmut diff --html` in headless Chromium. usage: scripts/test-report.sh [TRTMUT [PICTURES]]
# Chromium comes from Debian's package and playwright-core and axe-core from npm. What is missing is installed with CI=true as root, and
# is named otherwise; without CI=true a missing peer is no failure.
set -euo pipefail
cd "$(dirname "$0")/.."
trtmut=$(realpath "${1:-target/debug/trtmut}")
deps=.deps/report
pictures=${2:-$deps/pictures}
ci=${CI:-}

missing() {
  echo "report in Chromium: skipped: $1"
  [ "$ci" != true ] || exit 1
  exit 0
}

[ -x "$trtmut" ] || missing "no binary at $trtmut; build it first"
command -v node >/dev/null || missing "node is not installed"
chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
if [ -z "$chromium" ] && [ "$ci" = true ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get install -y -qq --no-install-recommends chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; }
  chromium=$(command -v chromium || true)
fi
[ -n "$chromium" ] || missing "Chromium is not installed (apt-get install chromium)"
mkdir -p "$deps" "$pictures"
if [ ! -d "$deps/node_modules/playwright-core" ] || [ ! -d "$deps/node_modules/axe-core" ]; then
  npm install --silent --no-audit --no-fund --prefix "$deps" playwright-core@1 axe-core@4 || missing "npm could not install playwright-core and axe-core"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
node tests/report/make.mjs "$work"
for pair in large hostile; do
  "$trtmut" diff "$work/$pair.old.safetensors" "$work/$pair.new.safetensors" --html "$work/$pair.html" >/dev/null
done
unet=fixtures/sd_unet
"$trtmut" build "$unet/model.dynamo.onnx" --shapes "$unet/shapes.dynamo.json" --weights "$unet/base.safetensors" --backend cpu -o "$work/unet.plan" -q >/dev/null
"$trtmut" diff "$work/unet.plan" --lora "$unet/pytorch_lora_weights.safetensors" --html "$work/lora.html" >/dev/null
"$trtmut" diff "$work/unet.plan" --lora "$unet/adapter_model.safetensors:0.5" --lora "$unet/lora_kohya.safetensors" --html "$work/loras.html" >/dev/null
REPORT_MODULES=$(realpath "$deps") REPORT_CHROMIUM=$chromium node tests/report/check.mjs "$pictures" \
  large="$work/large.html" hostile="$work/hostile.html" lora="$work/lora.html" loras="$work/loras.html"

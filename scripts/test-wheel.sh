#!/usr/bin/env bash
# Installs the wheel into a clean environment, as a user would, and runs it: the first plan, and the tests of the Python module. Builds
# with the profile of the tests, so there is nothing more to compile. Where python3 cannot do it, it says so and succeeds; with CI=true
# it fails.
set -euo pipefail
cd "$(dirname "$0")/.."

missing() {
    echo "test-wheel: $1; the wheel is not tested" >&2
    [ "${CI:-}" != true ] || exit 1
    exit 0
}
command -v python3 >/dev/null || missing "there is no python3"
python3 -m pip --version >/dev/null 2>&1 || missing "python3 has no pip"
python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || missing "python3 has no venv"

root="$PWD"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
scripts/wheel.sh --profile dev --out "$work" || {
    status=$?
    [ $status -ne 3 ] || missing "maturin could not be installed"
    exit $status
}
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-index "$work"/trtmut-*.whl

cd "$work"
cp "$root"/fixtures/clip_text/{model.ts.onnx,shapes.ts.json,io0.safetensors,fused.safetensors} .
trtmut="$work/venv/bin/trtmut"
begun=$(date +%s%N)
"$trtmut" build model.ts.onnx --shapes shapes.ts.json
"$trtmut" run engine.plan --inputs io0.safetensors --expect io0.safetensors
echo "test-wheel: first plan built and run in $((($(date +%s%N) - begun) / 1000000)) ms"
"$trtmut" refit engine.plan fused.safetensors
"$trtmut" run engine.plan --inputs io0.safetensors --expect io0.safetensors:fused.
"$trtmut" --version --verbose
for file in bash-completion/completions/trtmut zsh/site-functions/_trtmut fish/vendor_completions.d/trtmut.fish man/man1/trtmut-refit.1; do
    [ -s "$work/venv/share/$file" ] || { echo "test-wheel: $file is not in the wheel" >&2; exit 1; }
done
"$work/venv/bin/python" -m trtmut --version
TRTMUT_FIXTURES="$root/fixtures" "$work/venv/bin/python" -m unittest discover --quiet --start-directory "$root/python/tests"

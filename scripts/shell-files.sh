#!/usr/bin/env bash
# Completions and man pages of a binary, in the places that shells and man look in below a prefix's share folder.
# usage: shell-files.sh BINARY SHARE
set -euo pipefail
binary="$1" share="$2"
mkdir -p "$share/bash-completion/completions" "$share/zsh/site-functions" "$share/fish/vendor_completions.d"
"$binary" completions bash >"$share/bash-completion/completions/trtmut"
"$binary" completions zsh >"$share/zsh/site-functions/_trtmut"
"$binary" completions fish >"$share/fish/vendor_completions.d/trtmut.fish"
"$binary" man "$share/man/man1"

#!/usr/bin/env bash
# Runs thousands of mixed commands on the same plans and one cache, some of them at once and some of them killed, and checks after each round that
# nothing is lost: every plan opens and computes what its weights say, no temporary file is left over, and memory stays flat.
#
#   scripts/soak.sh [OPERATIONS] [SECONDS]     default: 10000 operations one after the other, then 60 s with 16 processes at once
#
# TRTMUT names the binary (default: target/release/trtmut). Prints counts; ends with 1 if anything was wrong.
set -euo pipefail
cd "$(dirname "$0")/.."
operations=${1:-10000}
seconds=${2:-60}
trtmut=$(realpath "${TRTMUT:-target/release/trtmut}")
data=$(realpath fixtures/upgrade/0.1.0)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export TRTMUT_CACHE_DIR=$work/cache NO_COLOR=1
cp "$data"/{m.onnx,base.safetensors,new.safetensors,in.safetensors,out_base.safetensors,out_new.safetensors} .
wrong=0 done_=0 killed=0 refused=0

say() { printf '%s\n' "$*"; }
fault() { say "WRONG: $*"; wrong=$((wrong + 1)); }

# The plan computes what one of the two checkpoints says; which one is printed.
state() {
  for weights in base new; do
    if "$trtmut" -q run "$1" --inputs in.safetensors --expect "out_$weights.safetensors" >/dev/null 2>&1; then
      say $weights
      return
    fi
  done
  say neither
}

build() { "$trtmut" -q build m.onnx --backend cpu --weights base.safetensors -o "$1" --force; }
leftovers() { find . -name '.trtmut-*' -not -path './cache/*' | wc -l; }

build p.plan >/dev/null
expected=base
first_peak='' last_peak=''
step=$((operations < 2000 ? operations / 4 + 1 : 500))
say "one after the other: $operations operations"
for ((i = 0; i < operations; i++)); do
  case $((RANDOM % 8)) in
    0) "$trtmut" -q refit p.plan new.safetensors >/dev/null && expected=new ;;
    1) "$trtmut" -q refit p.plan --base >/dev/null && expected=base ;;
    2) "$trtmut" -q diff p.plan new.safetensors >/dev/null ;;
    3) "$trtmut" -q run p.plan --inputs in.safetensors --expect "out_$expected.safetensors" >/dev/null || fault "run $i" ;;
    4) build q.plan >/dev/null ;;
    5) "$trtmut" -q cache prune --to 1MiB >/dev/null ;;
    6) "$trtmut" -q cache list >/dev/null ;;
    7) "$trtmut" -q run p.plan --weights new.safetensors --inputs in.safetensors --expect out_new.safetensors >/dev/null && expected=new ;;
  esac || fault "operation $i"
  done_=$((done_ + 1))
  if ((i % step == step - 1)); then
    [[ $(state p.plan) == "$expected" ]] || fault "after $i: the plan is $(state p.plan), not $expected"
    [[ $(leftovers) == 0 ]] || fault "after $i: $(leftovers) temporary files"
    # Peak memory in KiB, where GNU time is there to say it.
    if [[ -x /usr/bin/time ]]; then
      last_peak=$(/usr/bin/time -f %M "$trtmut" -q refit p.plan new.safetensors 2>&1 >/dev/null | tail -1)
      expected=new first_peak=${first_peak:-$last_peak}
    fi
  fi
done
if [[ -n $last_peak && $last_peak -gt $((first_peak * 3 / 2)) ]]; then
  fault "peak memory of a refit went from $first_peak to $last_peak KiB"
fi

say "at once: 16 processes for $seconds s, one in four killed"
worker() {
  local end=$((SECONDS + seconds)) code
  RANDOM=$1
  while ((SECONDS < end)); do
    local args
    case $((RANDOM % 6)) in
      0) args=(refit p.plan new.safetensors) ;;
      1) args=(refit p.plan --base) ;;
      2) args=(diff p.plan new.safetensors) ;;
      3) args=(run p.plan --inputs in.safetensors) ;;
      4) args=(build m.onnx --backend cpu --weights base.safetensors -o "q$1.plan" --force) ;;
      5) args=(cache prune --to 1MiB) ;;
    esac
    "$trtmut" -q "${args[@]}" >/dev/null 2>>"log.$1" &
    if ((RANDOM % 4 == 0)); then
      sleep "0.0$((RANDOM % 9))"
      kill -9 $! 2>/dev/null || true
    fi
    code=0
    wait $! 2>/dev/null || code=$?
    say "$code ${args[0]}" >>"codes.$1"
  done
}
for n in {1..16}; do worker "$n" & done
wait
# 1 is a file that another process replaced while it was read; 137 is a kill.
while read -r code command; do
  case $code in
    0) done_=$((done_ + 1)) ;;
    1) refused=$((refused + 1)) ;;
    137) killed=$((killed + 1)) ;;
    *) fault "$command ended with $code" ;;
  esac
done < <(cat codes.*)
if grep -hv 'changed while it was read\|^hint\|^warning: waiting' log.* | grep . >messages; then
  fault "unexpected messages:"
  sort messages | uniq -c | sort -rn | head
fi
[[ $(state p.plan) != neither ]] || fault "the plan computes what no checkpoint says"
# What killed processes left goes with the next write, once it is a minute old.
find . -name '.trtmut-*' -not -path './cache/*' -exec touch -d '1 hour ago' {} +
find . -path '*.dir/trtmut.lock' -exec touch -d '1 hour ago' {} +
"$trtmut" -q refit p.plan --base >/dev/null
"$trtmut" -q refit p.plan new.safetensors >/dev/null
[[ $(leftovers) == 0 ]] || fault "$(leftovers) temporary files are left over"
"$trtmut" -q cache verify >/dev/null || fault "the cache is damaged"
say "$done_ done, $killed killed, $refused refused because a file changed; peak of a refit ${first_peak:-?} to ${last_peak:-?} KiB; $wrong wrong"
((wrong == 0))

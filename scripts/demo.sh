#!/usr/bin/env bash
# The main job on a real model: compile a diffusion UNet, run it, fuse a LoRA into it, and compare with what torch computed before
# and after. Leaves its files in target/demo.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --locked --profile quick --no-default-features --features embedded
mkdir -p target/demo
say() { printf '\n$ trtmut %s\n' "$*"; target/quick/trtmut "$@"; }
say build fixtures/sd_unet/model.ts.onnx --shapes fixtures/sd_unet/shapes.ts.json -o target/demo/engine.plan
say run target/demo/engine.plan --inputs fixtures/sd_unet/io0.safetensors --expect fixtures/sd_unet/io0.safetensors
say diff target/demo/engine.plan --lora fixtures/sd_unet/pytorch_lora_weights.safetensors --top 3
say refit target/demo/engine.plan --lora fixtures/sd_unet/pytorch_lora_weights.safetensors
say run target/demo/engine.plan --inputs fixtures/sd_unet/io0.safetensors --expect fixtures/sd_unet/io0.safetensors

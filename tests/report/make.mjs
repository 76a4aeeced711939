// Writes checkpoints for the report's test: pairs of small safetensors files. node make.mjs FOLDER
import { writeFileSync } from "node:fs";

const [folder] = process.argv.slice(2);

/** A safetensors file of f32 tensors: [name, shape, values]. */
const write = (file, tensors) => {
  const header = {};
  let at = 0;
  for (const [name, shape, values] of tensors) {
    header[name] = { dtype: "F32", shape, data_offsets: [at, at + 4 * values.length] };
    at += 4 * values.length;
  }
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  const data = tensors.map(([, , values]) => Buffer.from(new Float32Array(values).buffer));
  writeFileSync(`${folder}/${file}`, Buffer.concat([length, text, ...data]));
};

// The same numbers in every run.
let state = 1;
const random = () => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 32 - 0.5;
};
const values = (n) => Array.from({ length: n }, random);
const moved = (old, by) => old.map((v) => v + by * random());

/** Both sides of a change that is larger in later blocks; every fifth tensor stays as it is. */
const pair = (name, names, shape = [6, 4]) => {
  const old = names.map((n) => [n, shape, values(shape.reduce((a, b) => a * b, 1))]);
  const changed = old.map(([n, s, v], i) => [n, s, i % 5 === 0 ? v : moved(v, 10 ** (-4 + (4 * i) / names.length))]);
  write(`${name}.old.safetensors`, old);
  write(`${name}.new.safetensors`, changed);
};

const layers = ["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_k", "attn2.to_v", "ff.net.0.proj", "ff.net.2", "norm"];
const large = Array.from({ length: 10_000 }, (_, i) => `model.diffusion_model.transformer_blocks.${Math.floor(i / 100)}.${layers[i % 10]}.${Math.floor((i % 100) / 10)}.weight`);
pair("large", large);
pair("hostile", [
  "</script><img src=x onerror=\"window.pwned=1\">",
  "<svg onload=window.pwned=2>.0.weight",
  "\"'><script>window.pwned=3</script>",
  "a.0.{{constructor.constructor('window.pwned=4')()}}",
  "b.1.\u202egnp.weight",
  "javascript:window.pwned=5",
  "c.2.__proto__",
  "constructor",
]);

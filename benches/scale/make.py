"""Makes a case from an inventory: an ONNX file whose constants are external, the checkpoint that it was exported from, and others.

Values are random bits with a fixed seed, all of one power of two in size, so that a case is made at the speed of the disk and every
tensor is telling. Layers are not connected with each other, unless a case asks for chains: what is measured depends on names, shapes and readers alone.
"""

import json
import math
import os
import struct
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import onnx_file as onnx

WIDTH = {"F32": 4, "F16": 2, "BF16": 2}
# Sign and mantissa stay random, the exponent is that of values between 2^-6 and 2^-5.
MASKS = {
    "F32": (np.uint32, 0x807F_FFFF, (127 - 6) << 23),
    "F16": (np.uint16, 0x83FF, (15 - 6) << 10),
}


def values(dtype, count, seed):
    kind, keep, exponent = MASKS[dtype]
    random = np.random.Generator(np.random.SFC64(seed))
    words = random.integers(0, 2**64, (count * WIDTH[dtype] + 7) // 8, dtype=np.uint64)
    bits = words.view(kind)[:count]
    bits &= kind(keep)
    bits |= kind(exponent)
    return bits


def tensors(layers):
    """(torch's name, shape, layer kind or `bias`), in the order of layers."""
    for kind, module, shape, bias in layers:
        yield f"{module}.weight", shape, kind
        if bias:
            yield f"{module}.bias", (shape[0],), "bias"


class Checkpoint:
    """Writes a safetensors file, tensor by tensor in the order of its header."""

    def __init__(self, path, dtype, shapes):
        header, at = {}, 0
        for name, shape in shapes:
            length = WIDTH[dtype] * math.prod(shape)
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + length]}
            at += length
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self.file = open(path, "wb", buffering=0)
        self.file.write(struct.pack("<Q", len(text)) + text)
        self.start, self.length = 8 + len(text), at

    def add(self, array):
        data = memoryview(np.ascontiguousarray(array)).cast("B")
        while data:
            data = data[self.file.write(data) :]

    def close(self):
        os.fsync(self.file.fileno())
        self.file.close()


def module_path(module):
    """As the exporter writes a module in the names of nodes: numbers stay with the list that they are of."""
    parts = []
    for part in module.split("."):
        if part.isdigit() and parts:
            parts[-1] += f".{part}"
        else:
            parts.append(part)
    return "/".join(parts)


def graph(layers, dtype, depth):
    """The ONNX file, and where each weight of `model.onnx.data` is. So many matrices of one width follow each other before an output."""
    nodes, constants, inputs, outputs = [], [], {}, []
    at = 0

    def constant(name, shape):
        nonlocal at
        length = WIDTH[dtype] * math.prod(shape)
        constants.append(onnx.tensor_external(name, dtype, shape, "model.onnx.data", at, length))
        at += length
        return name

    def read(name, shape):
        inputs[name] = onnx.value_info(name, dtype, shape)
        return name

    for i, (kind, module, shape, bias) in enumerate(layers):
        path, out = f"/{module_path(module)}", f"out{i}"
        if kind == "conv":
            x = read(f"image{shape[1]}", (1, shape[1], 4, 4))
            terms = [x, constant(f"{module}.weight", shape)]
            if bias:
                terms.append(constant(f"{module}.bias", shape[:1]))
            pad = shape[2] // 2
            pads = onnx.blob(1, "pads") + b"".join(onnx.number(8, pad) for _ in range(4)) + onnx.number(20, 7)
            nodes.append(onnx.node("Conv", terms, [out], f"{path}/Conv", [pads]))
            outputs.append(onnx.value_info(out, dtype, (1, shape[0], 4, 4)))
            continue
        wide = shape[0] if kind == "norm" else shape[1]
        x = f"out{i - 1}" if i % depth else read(f"vector{wide}", (1, wide))
        weight = f"onnx::MatMul_{i}" if kind == "linear" else f"{module}.weight"
        weight = constant(weight, shape[::-1] if kind == "linear" else shape)
        terms = [x, weight]
        if kind == "linear":
            product = f"product{i}" if bias else out
            nodes.append(onnx.node("MatMul", terms, [product], f"{path}/MatMul"))
            if bias:
                b = constant(f"{module}.bias", shape[:1])
                nodes.append(onnx.node("Add", [b, product], [out], f"{path}/Add"))
        else:
            if bias:
                terms.append(constant(f"{module}.bias", shape[:1]))
            operator, attribute = (
                ("Gemm", onnx.int_attribute("transB", 1))
                if kind == "gemm"
                else ("LayerNormalization", onnx.int_attribute("axis", -1 & (2**64 - 1)))
            )
            nodes.append(onnx.node(operator, terms, [out], f"{path}/{operator}", [attribute]))
        if (i + 1) % depth == 0 or i + 1 == len(layers):
            outputs.append(onnx.value_info(out, dtype, (1, shape[0])))
    return onnx.model(nodes, constants, list(inputs.values()), outputs)


def ahead(work, items):
    """`work` of each item in their order, by several threads, and few results at a time: numpy computes without Python's lock."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 16:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


LORA = (".to_q", ".to_k", ".to_v", ".to_out.0")
RANK = 16


def is_lora_target(kind, name):
    return kind == "linear" and name.removesuffix(".weight").endswith(LORA)


def factors(i, shape, dtype):
    """The two factors of a LoRA for one matrix."""
    down = values(dtype, RANK * shape[1], 2_000_000 + i).reshape(RANK, shape[1])
    up = values(dtype, shape[0] * RANK, 3_000_000 + i).reshape(shape[0], RANK)
    return down, up


def floats(bits, dtype):
    return bits.view({"F32": np.float32, "F16": np.float16}[dtype])


def case(folder, layers, dtype, wanted=("fused", "other", "lora"), depth=1):
    """Writes `model.onnx` with `model.onnx.data`, `base.safetensors`, and of `wanted`: `fused` (matrices of attention with a LoRA
    of rank 16 added), `other` (every tensor changed), `lora` (that LoRA)."""
    layers = list(layers)
    all_tensors = list(tensors(layers))
    shapes = [(name, shape) for name, shape, _ in all_tensors]
    files = {name: Checkpoint(f"{folder}/{name}.safetensors", dtype, shapes) for name in ("base", *wanted) if name != "lora"}
    data = open(f"{folder}/model.onnx.data", "wb", buffering=0)
    targets = [(i, name, shape) for i, (name, shape, kind) in enumerate(all_tensors) if is_lora_target(kind, name)]

    def made(at):
        """Every version of one tensor: base, as the graph has it, with the LoRA, another."""
        i, (name, shape, kind) = at
        base = values(dtype, math.prod(shape), i).reshape(shape)
        turned = np.ascontiguousarray(base.T) if kind == "linear" else base
        fused, other = base, None
        if "fused" in files and is_lora_target(kind, name):
            down, up = factors(i, shape, dtype)
            delta = floats(up, dtype).astype(np.float32) @ floats(down, dtype).astype(np.float32)
            fused = (floats(base, dtype).astype(np.float32) + delta).astype(floats(base, dtype).dtype)
        if "other" in files:
            other = values(dtype, base.size, 1_000_000 + i)
        return {"base": base, "fused": fused, "other": other}, turned

    for versions, turned in ahead(made, enumerate(all_tensors)):
        for name, file in files.items():
            file.add(versions[name])
        view = memoryview(turned).cast("B")
        while view:
            view = view[data.write(view) :]
    os.fsync(data.fileno())
    data.close()
    with open(f"{folder}/model.onnx", "wb") as out:
        out.write(graph(layers, dtype, depth))
    for file in files.values():
        file.close()
    if "lora" in wanted:
        names = []
        for i, name, shape in targets:
            module = name.removesuffix(".weight")
            names.append((f"unet.{module}.lora_A.weight", (RANK, shape[1])))
            names.append((f"unet.{module}.lora_B.weight", (shape[0], RANK)))
        file = Checkpoint(f"{folder}/lora.safetensors", dtype, names)
        for i, _, shape in targets:
            for factor in factors(i, shape, dtype):
                file.add(factor)
        file.close()


def nodes_case(path, count, alpha):
    """A graph of `count` nodes, half of which have a constant of their own; the last one's attribute is `alpha`."""
    nodes, constants, h = [], [], "x"
    for i in range(count // 2):
        values_ = (np.arange(8, dtype=np.float32) + i).tobytes()
        constants.append(onnx.tensor_raw(f"shift.{i}", "F32", (8,), values_))
        nodes.append(onnx.node("Add", [h, f"shift.{i}"], [f"a{i}"], f"/layer.{i}/Add"))
        slope = alpha if i == count // 2 - 1 else 0.1
        leak = onnx.float_attribute("alpha", slope)
        nodes.append(onnx.node("LeakyRelu", [f"a{i}"], [f"h{i}"], f"/layer.{i}/LeakyRelu", [leak]))
        h = f"h{i}"
    io = lambda name: onnx.value_info(name, "F32", (1, 8))
    with open(path, "wb") as out:
        out.write(onnx.model(nodes, constants, [io("x")], [io(h)]))


def sparse(path, shapes, dtype):
    """A checkpoint of zeros that takes no room on the disk."""
    file = Checkpoint(path, dtype, shapes)
    os.ftruncate(file.file.fileno(), file.start + file.length)
    file.close()


def index(folder, shards, count):
    """A checkpoint of so many shards with so many tensors each, and its index; no data takes room on the disk."""
    named = lambda shard: f"model-{shard + 1:05}-of-{shards:05}.safetensors"
    for shard in range(shards):
        sparse(f"{folder}/{named(shard)}", [(f"w.{shard * count + i}", (1,)) for i in range(count)], "F16")
    with open(f"{folder}/model.safetensors.index.json", "w") as out:
        weight_map = {f"w.{shard * count + i}": named(shard) for shard in range(shards) for i in range(count)}
        json.dump({"metadata": {"total_size": 2 * shards * count}, "weight_map": weight_map}, out)

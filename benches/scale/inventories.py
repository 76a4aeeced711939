"""The tensors of real models: names, shapes, and which layer reads each.

A layer is (kind, module name, shape of its weight as torch has it, whether it has a bias). Kinds: `conv`, `linear` (a MatMul whose
weight the exporter stores transposed), `gemm` (a Gemm that transposes itself) and `norm`.
"""

import math


def resnet(at, wide_in, wide_out, time):
    yield ("norm", f"{at}.norm1", (wide_in,), True)
    yield ("conv", f"{at}.conv1", (wide_out, wide_in, 3, 3), True)
    yield ("gemm", f"{at}.time_emb_proj", (wide_out, time), True)
    yield ("norm", f"{at}.norm2", (wide_out,), True)
    yield ("conv", f"{at}.conv2", (wide_out, wide_out, 3, 3), True)
    if wide_in != wide_out:
        yield ("conv", f"{at}.conv_shortcut", (wide_out, wide_in, 1, 1), True)


def transformer(at, wide, cross, depth, linear):
    yield ("norm", f"{at}.norm", (wide,), True)
    plain = ("linear", (wide, wide)) if linear else ("conv", (wide, wide, 1, 1))
    yield (plain[0], f"{at}.proj_in", plain[1], True)
    for block in range(depth):
        b = f"{at}.transformer_blocks.{block}"
        for n, keys in ((1, wide), (2, cross)):
            yield ("norm", f"{b}.norm{n}", (wide,), True)
            yield ("linear", f"{b}.attn{n}.to_q", (wide, wide), False)
            yield ("linear", f"{b}.attn{n}.to_k", (wide, keys), False)
            yield ("linear", f"{b}.attn{n}.to_v", (wide, keys), False)
            yield ("linear", f"{b}.attn{n}.to_out.0", (wide, wide), True)
        yield ("norm", f"{b}.norm3", (wide,), True)
        yield ("linear", f"{b}.ff.net.0.proj", (8 * wide, wide), True)
        yield ("linear", f"{b}.ff.net.2", (wide, 4 * wide), True)
    yield (plain[0], f"{at}.proj_out", plain[1], True)


def unet(channels, depths, cross, linear, added=None):
    """A UNet2DConditionModel: `depths` are transformer blocks at each level, 0 where a level has no attention."""
    time = 4 * channels[0]
    yield ("conv", "conv_in", (channels[0], 4, 3, 3), True)
    yield ("gemm", "time_embedding.linear_1", (time, channels[0]), True)
    yield ("gemm", "time_embedding.linear_2", (time, time), True)
    if added:
        yield ("gemm", "add_embedding.linear_1", (time, added), True)
        yield ("gemm", "add_embedding.linear_2", (time, time), True)
    skips = [channels[0]]
    wide = channels[0]
    for level, (out, depth) in enumerate(zip(channels, depths)):
        at = f"down_blocks.{level}"
        for n in range(2):
            yield from resnet(f"{at}.resnets.{n}", wide, out, time)
            if depth:
                yield from transformer(f"{at}.attentions.{n}", out, cross, depth, linear)
            wide = out
            skips.append(wide)
        if level + 1 < len(channels):
            yield ("conv", f"{at}.downsamplers.0.conv", (wide, wide, 3, 3), True)
            skips.append(wide)
    middle = max(depths[-1], 1)
    yield from resnet("mid_block.resnets.0", wide, wide, time)
    yield from transformer("mid_block.attentions.0", wide, cross, middle, linear)
    yield from resnet("mid_block.resnets.1", wide, wide, time)
    for level, (out, depth) in enumerate(zip(reversed(channels), reversed(depths))):
        at = f"up_blocks.{level}"
        for n in range(3):
            yield from resnet(f"{at}.resnets.{n}", wide + skips.pop(), out, time)
            if depth:
                yield from transformer(f"{at}.attentions.{n}", out, cross, depth, linear)
            wide = out
        if level + 1 < len(channels):
            yield ("conv", f"{at}.upsamplers.0.conv", (wide, wide, 3, 3), True)
    yield ("norm", "conv_norm_out", (channels[0],), True)
    yield ("conv", "conv_out", (4, channels[0], 3, 3), True)


def parameters(layers):
    return sum(math.prod(shape) + (shape[0] if bias else 0) for _, _, shape, bias in layers)


def sd15():
    layers = list(unet((320, 640, 1280, 1280), (1, 1, 1, 0), 768, linear=False))
    assert parameters(layers) == 859_520_964
    return layers


def sdxl():
    layers = list(unet((320, 640, 1280), (0, 2, 10), 2048, linear=True, added=2816))
    assert parameters(layers) == 2_567_463_684
    return layers


def small():
    """300 MB in f16 of the same kinds of layers."""
    return list(unet((160, 320, 480, 480), (1, 1, 1, 0), 768, linear=False))


def matrices(count, side):
    return [("linear", f"blocks.{i}.proj", (side, side), False) for i in range(count)]


def flux():
    """The tensors of FLUX.1's transformer, 11.9 B parameters, by name and shape."""
    wide, found = 3072, {}

    def add(name, rows, columns):
        found[f"{name}.weight"] = (rows, columns)
        found[f"{name}.bias"] = (rows,)

    add("x_embedder", wide, 64)
    add("context_embedder", wide, 4096)
    for name, columns in (("timestep", 256), ("guidance", 256), ("text", 768)):
        add(f"time_text_embed.{name}_embedder.linear_1", wide, columns)
        add(f"time_text_embed.{name}_embedder.linear_2", wide, wide)
    for i in range(19):
        b = f"transformer_blocks.{i}"
        for name in ("norm1.linear", "norm1_context.linear"):
            add(f"{b}.{name}", 6 * wide, wide)
        for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out"):
            add(f"{b}.attn.{name}", wide, wide)
        for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            found[f"{b}.attn.{name}.weight"] = (128,)
        for name in ("ff", "ff_context"):
            add(f"{b}.{name}.net.0.proj", 4 * wide, wide)
            add(f"{b}.{name}.net.2", wide, 4 * wide)
    for i in range(38):
        b = f"single_transformer_blocks.{i}"
        add(f"{b}.norm.linear", 3 * wide, wide)
        add(f"{b}.proj_mlp", 4 * wide, wide)
        add(f"{b}.proj_out", wide, 5 * wide)
        for name in ("to_q", "to_k", "to_v"):
            add(f"{b}.attn.{name}", wide, wide)
        for name in ("norm_q", "norm_k"):
            found[f"{b}.attn.{name}.weight"] = (128,)
    add("norm_out.linear", 2 * wide, wide)
    add("proj_out", 64, wide)
    count = sum(math.prod(s) for s in found.values())
    assert count == 11_901_408_320, count
    return found

"""What trtmut is compared with, as commands of their own: `peers.py compare|merge|load ARGUMENTS`."""

import json
import struct
import sys


def load(path):
    """A safetensors file as numpy arrays: by the safetensors package, or as that does it where it is missing."""
    try:
        from safetensors.numpy import load_file

        return load_file(path)
    except ImportError:
        pass
    import numpy as np

    kinds = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
    with open(path, "rb") as file:
        data = file.read()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    found = {}
    for name, info in header.items():
        start, end = (8 + length + at for at in info["data_offsets"])
        kind = kinds[info["dtype"]]
        found[name] = np.frombuffer(data[start:end], dtype=kind).reshape(info["shape"])
    return found


def compare(old, new):
    """Which tensors of two checkpoints differ, with numpy."""
    import numpy as np

    old, new = load(old), load(new)
    differ = [name for name in old if not np.array_equal(old[name], new[name])]
    print(len(differ))


def merge(base, lora, out):
    """Loads a checkpoint and a LoRA with PEFT, merges and saves."""
    import torch
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file, save_file

    state = load_file(base)
    adapter = {k.removeprefix("unet."): v for k, v in load_file(lora).items()}
    root = torch.nn.Module()
    targets = sorted({k.split(".lora_")[0] for k in adapter})

    def place(name, leaf):
        at = root
        *path, last = name.split(".")
        for part in path:
            if not hasattr(at, part):
                at.add_module(part, torch.nn.Module())
            at = getattr(at, part)
        at.add_module(last, leaf)

    modules = {}
    for key, value in state.items():
        modules.setdefault(key.rsplit(".", 1)[0], {})[key.rsplit(".", 1)[1]] = value
    for name, parts in modules.items():
        if name in targets:
            rows, columns = parts["weight"].shape
            leaf = torch.nn.Linear(columns, rows, bias="bias" in parts, device="meta")
        else:
            leaf = torch.nn.Module()
        for part, value in parts.items():
            leaf.register_parameter(part, torch.nn.Parameter(value, requires_grad=False))
        place(name, leaf)
    rank = next(v for k, v in adapter.items() if ".lora_A." in k).shape[0]
    model = get_peft_model(root, LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))
    set_peft_model_state_dict(model, {f"base_model.model.{k}": v for k, v in adapter.items()})
    merged = model.merge_and_unload()
    save_file({k: v.contiguous() for k, v in merged.state_dict().items()}, out)


def onnx_load(*paths):
    import onnx

    for path in paths:
        onnx.load(path)


if __name__ == "__main__":
    {"compare": compare, "merge": merge, "load": onnx_load}[sys.argv[1]](*sys.argv[2:])

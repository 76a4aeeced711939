#!/usr/bin/env python3
"""Refits of a model of real size, whole processes, beside the C++ program that makes the same calls, and beside the least that any could take.

    real_size.py LIBRARIES FOLDER --trtmut BINARY [--json FILE]

FOLDER holds what sd15.py makes. LIBRARIES is the folder of TensorRT 8.5 or 8.6. Needs a GPU, g++, and Python with torch, onnx
and safetensors. Every figure is written to the JSON file as soon as it is there, so that a run that is cut short has its first ones.
The floor of a refit is: plan and new weights read, the plan written and synced, the plan's bytes to the GPU and back, each at the rate
measured here, and the deserialising of the C++ program.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHAPES = {"dims": {"B": {"min": 1, "max": 2, "opt": 2}},
          "inputs": {"sample": {"0": "B", "2": 64, "3": 64}, "timestep": {"0": "B"}, "encoder_hidden_states": {"0": "B"}}}
PAIRS = 2


class Bench:
    def __init__(self, args):
        self.args = args
        self.folder = args.folder.resolve()
        before = json.loads(args.json.read_text()) if args.json.exists() else {}
        self.result = {k: before[k] for k in ("build",) if k in before} | {"started": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()), "cores": os.cpu_count()}
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("TRTMUT_")}
        self.env.update(LD_LIBRARY_PATH=str(args.libraries), TRTMUT_TENSORRT=str(args.libraries), CUDA_MODULE_LOADING="LAZY",
                        TRTMUT_CACHE_DIR=str(self.folder / "cache"), TRTMUT_NO_PROGRESS="1")

    def note(self, key, value):
        self.result[key] = value
        self.args.json.write_text(json.dumps(self.result, indent=1) + "\n")
        print(f"[{time.strftime('%H:%M:%S')}] {key}: {json.dumps(value)}", flush=True)

    def run(self, *command, expect=(0,)):
        """Wall time in ms, stdout, and the most anonymous memory in MiB (sampled every 5 ms)."""
        command = [str(c) for c in command]
        peak = [0]
        start = time.monotonic_ns()
        process = subprocess.Popen(command, env=self.env, cwd=self.folder, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

        def watch():
            try:
                while process.poll() is None:
                    for line in open(f"/proc/{process.pid}/status"):
                        if line.startswith("RssAnon"):
                            peak[0] = max(peak[0], int(line.split()[1]))
                    time.sleep(0.005)
            except OSError:
                pass

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        out, err = process.communicate()
        wall = (time.monotonic_ns() - start) / 1e6
        watcher.join()
        if process.returncode not in expect:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {out[-500:]} {err[-1500:]}")
        return {"wall_ms": round(wall, 1), "anon_mib": round(peak[0] / 1024)}, out

    def trtmut(self, *args, **kw):
        return self.run(self.args.trtmut, *args, **kw)

    def fresh(self, plan="base.plan"):
        """A copy to refit; synced, so that nobody pays for writing it."""
        shutil.copyfile(self.folder / plan, self.folder / "copy.plan")
        shutil.copyfile(self.folder / f"{plan}.json", self.folder / "copy.plan.json")
        os.sync()

    def build(self):
        (self.folder / "sb.json").write_text(json.dumps(SHAPES))
        if (self.folder / "base.plan").exists():
            return
        times, _ = self.trtmut("build", "model.onnx", "--shapes", "sb.json", "--backend", "tensorrt", "--weights", "base.safetensors",
                               "--no-cache", "-o", "base.plan")
        self.note("build", times)

    def rates(self):
        import torch
        plan = self.folder / "base.plan"
        size = plan.stat().st_size
        self.note("plan_bytes", size)
        best = 0
        for _ in range(3):
            start = time.monotonic()
            with open(plan, "rb", buffering=0) as f:
                while f.read(1 << 24):
                    pass
            best = max(best, size / (time.monotonic() - start))
        data = plan.read_bytes()
        writes = []
        for _ in range(2):
            start = time.monotonic()
            with open(self.folder / "rate", "wb", buffering=0) as f:
                for at in range(0, size, 1 << 24):
                    f.write(data[at:at + (1 << 24)])
                os.fsync(f.fileno())
            writes.append(size / (time.monotonic() - start))
        (self.folder / "rate").unlink()
        host = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)
        device = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
        pcie = []
        for to, source in ((device, host), (host, device)):
            to.copy_(source)
            torch.cuda.synchronize()
            start = time.monotonic()
            for _ in range(4):
                to.copy_(source, non_blocking=True)
            torch.cuda.synchronize()
            pcie.append(4 * (1 << 30) / (time.monotonic() - start))
        self.note("rates_gb_s", {"read": best / 1e9, "write_sync": max(writes) / 1e9, "to_gpu": pcie[0] / 1e9, "from_gpu": pcie[1] / 1e9})
        self.note("gpu", torch.cuda.get_device_name())

    def peer_files(self):
        """What the C++ program is given: tensors under the engine's names and layouts."""
        import onnx
        import torch
        from onnx import numpy_helper
        from safetensors.numpy import save_file
        from safetensors.torch import load_file
        import numpy as np

        model = onnx.load(str(self.folder / "model.onnx"))
        rest = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        for node in model.graph.node:
            for a in node.attribute:
                if node.op_type == "Constant" and a.name == "value" and a.t.data_type in (1, 10):
                    rest[node.output[0]] = numpy_helper.to_array(a.t)
        rest = {k: np.ascontiguousarray(v) for k, v in rest.items() if v.dtype in (np.float16, np.float32)}
        base = load_file(str(self.folder / "base.safetensors"))
        by_name, by_bytes = {}, {}
        for name, value in base.items():
            by_name["m." + name] = (name, False)
            if value.ndim == 2:
                by_bytes[value.t().contiguous().numpy().tobytes()] = (name, True)
        for kind in ("fused", "other"):
            new, changed = load_file(str(self.folder / f"{kind}.safetensors")), {}
            for name, value in rest.items():
                found = by_name.get(name) or by_bytes.get(value.tobytes())
                if not found:
                    continue
                tensor = new[found[0]]
                if torch.equal(tensor, base[found[0]]):
                    continue
                tensor = tensor.t().contiguous() if found[1] else tensor
                changed[name] = tensor.numpy().reshape(value.shape)
            save_file(changed, str(self.folder / f"peer-{kind}.safetensors"))
            self.note(f"peer_{kind}_tensors", len(changed))
        save_file(rest, str(self.folder / "peer-rest.safetensors"))
        subprocess.run(["g++", "-O2", "-std=c++17", HERE / "peer.cpp", "-o", self.folder / "peer", "-ldl", "-lpthread"], check=True)

    def peer(self, kind):
        self.fresh()
        times, out = self.run(self.folder / "peer", self.args.libraries, "copy.plan", f"peer-{kind}.safetensors", "peer-rest.safetensors",
                              str(time.monotonic_ns()))
        words = out.split()
        return {**times, **{k: float(v) for k, v in zip(words[::2], words[1::2])}}

    def refit(self, more, plan="base.plan"):
        self.fresh(plan)
        times, out = self.trtmut("refit", "copy.plan", *more, "--json")
        report = json.loads(out)
        if not report["written"] or report["rebuilt"]:
            raise RuntimeError(f"trtmut did not refit: {out[:500]}")
        return {**times, **{k: round(report[k] / 1e6, 1) for k in ("resolve_ns", "apply_ns", "write_ns") if k in report}}

    def error(self, plan, kind):
        """Relative L2 distance of the engine's output, and of torch's own f16 output, from torch's f32 output."""
        from safetensors.torch import load_file
        self.trtmut("run", plan, "--inputs", "io.safetensors:in.", "--save", "out.safetensors")
        io, out = load_file(str(self.folder / "io.safetensors")), load_file(str(self.folder / "out.safetensors"))
        truth = io[f"{kind}32.out_sample"].double()
        far = lambda t: ((t.double() - truth).norm() / truth.norm()).item()
        ours, torchs = far(out["out_sample"]), far(io[f"{kind}.out_sample"])
        return {"engine": ours, "torch_f16": torchs, "ratio": ours / torchs}

    def floor(self, overlay, deserialize_ms):
        r, plan = self.result["rates_gb_s"], self.result["plan_bytes"]
        read = (plan + (self.folder / overlay).stat().st_size) / r["read"]
        return (read + plan / r["write_sync"] + plan / r["to_gpu"] + plan / r["from_gpu"]) / 1e6 + deserialize_ms

    def scenario(self, name, overlay, more, peer, truth):
        rows = {"trtmut": [], "peer": []}
        for i in range(PAIRS + 1):
            # Who goes first alternates, so that neither profits from the other.
            order = ["trtmut", "peer"] if i % 2 else ["peer", "trtmut"]
            for who in order:
                if who == "peer" and not peer:
                    continue
                row = self.peer(peer) if who == "peer" else self.refit(more)
                if i:
                    rows[who].append(row)
            self.note(name, rows)
        self.note(f"{name}_outputs", self.error("copy.plan", truth))
        if peer:
            self.note("deserialize_ms", min(r["deserialize"] for r in rows["peer"]))
        least = min(r["wall_ms"] for r in rows["trtmut"])
        floor = self.floor(overlay, self.result["deserialize_ms"])
        verdict = {"trtmut_ms": least, "floor_ms": round(floor), "over_floor": least / floor}
        if peer:
            verdict["peer_ms"] = min(r["wall_ms"] for r in rows["peer"])
            verdict["over_peer"] = least / verdict["peer_ms"]
            verdict["anon_over_peer_mib"] = max(r["anon_mib"] for r in rows["trtmut"]) - max(r["anon_mib"] for r in rows["peer"])
        if "build" in self.result:
            verdict["build_over_refit"] = self.result["build"]["wall_ms"] / least
        self.note(f"{name}_verdict", verdict)

    def back_to_base(self):
        from hashlib import sha256
        self.trtmut("refit", "base.plan", "fused.safetensors", "-o", "fused.plan")
        rows = [self.refit(["--base"], "fused.plan") for _ in range(PAIRS)]
        digest = lambda p: sha256((self.folder / p).read_bytes()).hexdigest()
        self.note("base", {"trtmut": rows, "same_bytes": digest("copy.plan") == digest("base.plan")})
        self.note("base_outputs", self.error("copy.plan", "base"))

    def tried(self, name, step, *args):
        """A step that fails is noted, and those after it are measured all the same."""
        try:
            step(*args)
        except Exception as e:
            self.note(f"{name}_failed", str(e))

    def diff(self):
        times, _ = self.trtmut("diff", "base.plan", "fused.safetensors", "--json")
        self.note("diff", times)

    def latency(self):
        _, out = self.trtmut("run", "base.plan", "--inputs", "io.safetensors:in.", "--warmup", "20", "--iters", "100", "--json")
        self.note("latency", json.loads(out).get("latency"))

    def main(self):
        self.build()
        if self.args.build_only:
            return
        self.rates()
        self.peer_files()
        self.note("base_plan_outputs", self.error("base.plan", "base"))
        self.tried("fused", self.scenario, "fused", "fused.safetensors", ["fused.safetensors"], "fused", "fused")
        self.tried("lora", self.scenario, "lora", "lora.safetensors", ["--lora", "lora.safetensors"], None, "fused")
        self.tried("other", self.scenario, "other", "other.safetensors", ["other.safetensors"], "other", "other")
        self.tried("base", self.back_to_base)
        self.tried("diff", self.diff)
        self.tried("latency", self.latency)
        self.note("done", True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("libraries", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trtmut", type=Path, required=True)
    parser.add_argument("--json", type=Path, default=Path("real_size.json"))
    parser.add_argument("--build-only", action="store_true", help="ends after the build, which takes most of the time; the next call measures")
    args = parser.parse_args()
    args.libraries, args.trtmut, args.json = args.libraries.resolve(), args.trtmut.resolve(), args.json.resolve()
    Bench(args).main()


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""How long a refit takes, from the start of the process to the written plan: trtmut against the C++ program beside this file.

    refit.py LIBRARIES [--only dit,clip_text] [--plans FOLDER] [--json FILE]      (README.md says more)

LIBRARIES is the folder of TensorRT 8.5 or 8.6. Needs a GPU, g++, and Python with numpy, onnx and safetensors.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FIXTURES = ["dit", "clip_text", "vae_decoder", "sd_unet"]
# What was promised: refit at most so much slower than the peer, and at least so much faster than the build.
PEER_LIMIT = 1.1
BUILD_LIMIT = 20
LEAST_PAIRS = 3


class Failed(Exception):
    pass


def say(text):
    print(text, flush=True)


def first(paths, what):
    for path in paths:
        if path.exists():
            return path
    raise Failed(f"there is no {what}: looked for {', '.join(map(str, paths))}")


def run(command, env, cwd, started=False):
    """Runs a command; its wall time in milliseconds and its stdout. `started` gives it the time of its start."""
    command = [str(part) for part in command]
    start = time.monotonic_ns()
    done = subprocess.run(
        command + ([str(start)] if started else []),
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wall = (time.monotonic_ns() - start) / 1e6
    if done.returncode != 0:
        raise Failed(f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stdout}{done.stderr}".strip())
    return wall, done.stdout


class Bench:
    def __init__(self, args):
        self.args = args
        self.end = time.monotonic() + args.seconds
        self.trtmut = args.trtmut or first([ROOT / "trtmut", ROOT / "target/release/trtmut"], "trtmut binary")
        self.fixtures = args.fixtures or first([ROOT / "fixtures"], "fixtures folder")
        self.plans = args.plans
        self.plans.mkdir(parents=True, exist_ok=True)
        env = {k: v for k, v in os.environ.items() if not k.startswith("TRTMUT_")}
        old = env.get("LD_LIBRARY_PATH")
        env["LD_LIBRARY_PATH"] = f"{args.libraries}:{old}" if old else str(args.libraries)
        # What trtmut chooses where the user does not. It makes the peer faster, so it gets it too.
        env.setdefault("CUDA_MODULE_LOADING", "LAZY")
        env["TRTMUT_TENSORRT"] = str(args.libraries)
        env["TRTMUT_CACHE_DIR"] = str(self.plans / "cache")
        env["TRTMUT_TEST_FIXTURES"] = str(self.fixtures)
        self.env = env
        self.peer = args.peer or self.compile()
        # The test program can open a plan without a manifest and compare its outputs with torch's.
        self.judge = ROOT / "gpu" if (ROOT / "gpu").exists() else None

    def compile(self):
        binary = self.plans / "peer"
        command = ["g++", "-O2", "-std=c++17", HERE / "peer.cpp", "-o", binary, "-ldl", "-lpthread"]
        run(command, self.env, self.plans)
        return binary

    def fixture(self, name):
        folder = self.plans / name
        folder.mkdir(exist_ok=True)
        source = self.fixtures / name
        for path in ["model.ts.onnx", "shapes.ts.json", "fused.safetensors", "io0.safetensors"]:
            shutil.copy(source / path, folder)
        lora = next((p for p in ("pytorch_lora_weights", "adapter_model") if (source / f"{p}.safetensors").exists()), None)
        if lora:
            for path in [f"{lora}.safetensors", "adapter_config.json"]:
                if (source / path).exists():
                    shutil.copy(source / path, folder)
        return folder, lora and f"{lora}.safetensors"

    def build(self, folder):
        """Time of the build in seconds; a plan of an earlier run keeps the time that it took then."""
        note = folder / "build.json"
        if note.exists() and (folder / "base.plan").exists():
            return json.loads(note.read_text())["seconds"], True
        command = [self.trtmut, "build", "model.ts.onnx", "--shapes", "shapes.ts.json", "-o", "base.plan"]
        wall, _ = run(command + ["--backend", self.args.backend, "--no-cache", "--force", "-q"], self.env, folder)
        note.write_text(json.dumps({"seconds": wall / 1e3}))
        return wall / 1e3, False

    def timed(self, folder, command, started=False):
        """One run on a fresh copy of the base plan."""
        shutil.copyfile(folder / "base.plan", folder / "copy.plan")
        shutil.copyfile(folder / "base.plan.json", folder / "copy.plan.json")
        # What is still to be written would be written by whoever syncs next.
        os.sync()
        return run(command, self.env, folder, started)

    def refit(self, folder, more):
        wall, out = self.timed(folder, [self.trtmut, "refit", "copy.plan", *more, "--json"])
        report = json.loads(out)
        if not report["written"] or report["rebuilt"]:
            raise Failed(f"trtmut did not refit: {out}")
        return {"wall": wall, **{k[:-3]: report[k] / 1e6 for k in ("resolve_ns", "apply_ns", "write_ns")}}

    def by_hand(self, folder):
        command = [self.peer, self.args.libraries, "copy.plan", "changed.safetensors", "rest.safetensors"]
        wall, out = self.timed(folder, command, started=True)
        words = out.split()
        return {"wall": wall, **{k: float(v) for k, v in zip(words[::2], words[1::2])}}

    def measure(self, name):
        folder, lora = self.fixture(name)
        counts = weights_for_the_peer(self.fixtures / name, folder)
        say(f"{name}: building")
        build, reused = self.build(folder)
        say(f"{name}: build {build:.1f} s{' (by an earlier run)' if reused else ''}; {counts[0]} weights change, {counts[1]} others")
        result = {"fixture": name, "build_s": build, "build_reused": reused, "trtmut": [], "peer": [], "lora": [], "checks": {}}
        rounds = self.args.pairs + 1
        for i in range(rounds):
            if i > LEAST_PAIRS and time.monotonic() > self.end:
                say(f"{name}: the time is spent after {i - 1} pairs")
                break
            # Who goes first alternates, so that neither profits from the other.
            order = ["trtmut", "peer"] if i % 2 == 0 else ["peer", "trtmut"]
            for who in order:
                times = self.refit(folder, ["fused.safetensors"]) if who == "trtmut" else self.by_hand(folder)
                if i == 0:
                    self.check(name, folder, who, result)
                else:
                    result[who].append(times)
        for i in range(4 if lora else 0):
            if i > 1 and time.monotonic() > self.end:
                break
            times = self.refit(folder, ["--lora", lora])
            if i == 0:
                self.check(name, folder, "lora", result)
            else:
                result["lora"].append(times)
        return {**result, **summary(result)}

    def check(self, name, folder, who, result):
        """That what the warm-up wrote is the fused model."""
        checks = result["checks"]
        plan = (folder / "copy.plan").read_bytes()
        if who == "peer":
            checks["peer_bytes"] = len(plan)
            if self.judge:
                _, out = run([self.judge, "open-in-a-new-process", name, "fused", folder / "copy.plan"], self.env, folder)
                checks["peer_error"] = float(out.split("distance ")[1].split()[0])
            else:
                checks["peer_error"] = None
        else:
            error = self.relative_error(folder)
            checks[f"{who}_bytes"], checks[f"{who}_error"] = len(plan), error
        error = checks[f"{who}_error"]
        shown = "not compared (the test program `gpu` is not here)" if error is None else f"relative L2 error {error:.1e}"
        say(f"{name}: {who} wrote {len(plan)} bytes; {shown}")
        if error is not None and not error <= 1e-4:
            raise Failed(f"{name}: what {who} wrote is not the fused model")

    def relative_error(self, folder):
        command = [self.trtmut, "run", "copy.plan", "--inputs", "io0.safetensors:in."]
        _, out = run(command + ["--expect", "io0.safetensors:fused.", "--json"], self.env, folder)
        outputs = json.loads(out)["comparison"]["outputs"]
        return max(o["difference"]["relative_l2"] for o in outputs)


def weights_for_the_peer(fixture, to):
    """Writes what changes and what does not, by ONNX name; tells how many of each."""
    import onnx
    from onnx import numpy_helper
    from safetensors.numpy import load_file, save_file

    graph = onnx.load(str(fixture / "model.ts.onnx")).graph
    rest = {i.name: numpy_helper.to_array(i).copy() for i in graph.initializer}
    changed = load_file(str(fixture / "refit.ts.safetensors"))
    for name, value in changed.items():
        old = rest.pop(name, None)
        if old is None or old.shape != value.shape or old.dtype != value.dtype:
            raise Failed(f"`{name}` of refit.ts.safetensors is no initializer of the model")
    # TensorRT may compute a layer's weights together with a constant.
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value" and attribute.t.data_type == onnx.TensorProto.FLOAT:
                rest[node.output[0]] = numpy_helper.to_array(attribute.t).copy()
    save_file(changed, str(to / "changed.safetensors"))
    save_file(rest, str(to / "rest.safetensors"))
    return len(changed), len(rest)


def summary(result):
    walls = {who: [t["wall"] for t in result[who]] for who in ("trtmut", "peer", "lora")}
    median = {f"{who}_median_ms": statistics.median(w) for who, w in walls.items() if w}
    least = {f"{who}_min_ms": min(w) for who, w in walls.items() if w}
    pairs = [a / b for a, b in zip(walls["trtmut"], walls["peer"])]
    return {
        **median,
        **least,
        "pairs": len(pairs),
        "ratio_of_medians": median["trtmut_median_ms"] / median["peer_median_ms"],
        "ratio_of_least": least["trtmut_min_ms"] / least["peer_min_ms"],
        "median_of_ratios": statistics.median(pairs),
        "build_over_refit": result["build_s"] * 1e3 / median["trtmut_median_ms"],
    }


def table(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        say("  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))))


def report(results):
    rows = [["fixture", "build", "trtmut", "(least)", "peer", "(least)", "of medians", "of pairs", "of least", "build/refit", "--lora"]]
    for r in results:
        ms = lambda key: f"{r[key]:.0f} ms" if key in r else "-"
        rows.append(
            [r["fixture"], f"{r['build_s']:.1f} s", ms("trtmut_median_ms"), ms("trtmut_min_ms"), ms("peer_median_ms"), ms("peer_min_ms")]
            + [f"{r[k]:.3f}x" for k in ("ratio_of_medians", "median_of_ratios", "ratio_of_least")]
            + [f"{r['build_over_refit']:.1f}x", ms("lora_median_ms")]
        )
    say("\nWall time of the process, medians:")
    table(rows)
    for who in ("trtmut", "lora", "peer"):
        shown = [r for r in results if r[who]]
        if not shown:
            continue
        steps = [k for k in shown[0][who][0] if k not in ("changed", "given")]
        say(f"\n{who}: median of each step, ms")
        table([["fixture", *steps]] + [[r["fixture"], *(f"{statistics.median(t[s] for t in r[who]):.1f}" for s in steps)] for r in shown])
    say("")
    for r in results:
        met = lambda ok: "met" if ok else "NOT MET"
        say(
            f"{r['fixture']}: {r['ratio_of_medians']:.3f}x of the peer over {r['pairs']} pairs (<= {PEER_LIMIT}: {met(r['ratio_of_medians'] <= PEER_LIMIT)}); "
            f"{r['build_over_refit']:.1f}x faster than the build (>= {BUILD_LIMIT}: {met(r['build_over_refit'] >= BUILD_LIMIT)})"
        )


def machine(bench):
    facts = {"cpus": os.cpu_count(), "kernel": platform.release(), "trtmut": str(bench.trtmut)}
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        facts["gpu"] = run(query, bench.env, bench.plans)[1].strip()
    except (Failed, OSError) as e:
        facts["gpu"] = f"unknown: {e}"
    return facts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("libraries", type=Path, metavar="LIBRARIES", help="folder of TensorRT's libraries")
    parser.add_argument("--trtmut", type=Path, help="the trtmut binary (default: the packed one, else target/release/trtmut)")
    parser.add_argument("--peer", type=Path, help="the peer's binary (default: compiled with g++)")
    parser.add_argument("--fixtures", type=Path, help="the fixtures' folder")
    parser.add_argument("--only", default=",".join(FIXTURES), help="fixtures, with commas")
    parser.add_argument("--plans", type=Path, help="folder for plans; those of an earlier run are used again")
    parser.add_argument("--pairs", type=int, default=7, help="measured pairs after one that warms up")
    parser.add_argument("--seconds", type=float, default=330, help=f"after so long, no fixture goes on beyond {LEAST_PAIRS} pairs")
    parser.add_argument("--json", type=Path, help="write every time to this file")
    parser.add_argument("--backend", default="tensorrt", help=argparse.SUPPRESS)
    args = parser.parse_args()
    for key in ("libraries", "trtmut", "peer", "fixtures", "plans", "json"):
        value = getattr(args, key)
        setattr(args, key, value and value.absolute())
    if args.pairs < LEAST_PAIRS:
        raise Failed(f"fewer than {LEAST_PAIRS} pairs say nothing")
    scratch = None if args.plans else tempfile.TemporaryDirectory(prefix="trtmut-bench-")
    args.plans = args.plans or Path(scratch.name)
    bench = Bench(args)
    facts = machine(bench)
    say(f"{facts['gpu']}; {facts['cpus']} CPUs; {bench.trtmut}")
    results, failures = [], []
    for name in args.only.split(","):
        try:
            results.append(bench.measure(name))
        except (Failed, OSError, KeyError, ValueError) as e:
            failures.append(name)
            say(f"{name}: FAILED: {type(e).__name__}: {e}")
            continue
        if args.json:
            args.json.write_text(json.dumps({"schema": "trtmut.bench-refit/1", "machine": facts, "results": results}, indent=1))
    if results:
        report(results)
    return 1 if failures or not results else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as e:
        sys.exit(f"refit.py: {e}")

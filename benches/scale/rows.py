"""The rows of the benchmark: what is done, what it is compared with, and which ratio is the bar."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field

import inventories
import make
from measure import Failed, Took, median, paired, run

MIB = 1 << 20
PEERS = os.path.join(os.path.dirname(__file__), "peers.py")


@dataclass
class Row:
    case: str
    work: str
    took: Took | None = None
    peer: str = ""
    theirs: Took | None = None
    bar: float | None = None
    memory: int | None = None
    note: str = ""

    @property
    def ratio(self):
        return self.took.wall / self.theirs.wall if self.took and self.theirs else None

    def missed(self):
        """Which bars are missed, in words."""
        found = []
        if self.bar and self.ratio and self.ratio > self.bar:
            found.append(f"ratio {self.ratio:.2f} > {self.bar}")
        if self.memory and self.took and self.took.anonymous > self.memory:
            found.append(f"memory {self.took.anonymous // MIB} MiB > {self.memory // MIB} MiB")
        return found


@dataclass
class Bench:
    trtmut: str
    scratch: str
    times: int
    only: str
    b3sum: list | None
    rows: list = field(default_factory=list)
    growth: dict = field(default_factory=dict)

    def wants(self, *words):
        return self.only in " ".join(words)

    def say(self, text):
        print(text, file=sys.stderr, flush=True)

    def add(self, case, work, ours, peer=None, peer_name="", bar=None, memory=None, before=lambda: None, skip="", times=None):
        """Measures a row, unless it was not asked for."""
        if not self.wants(case, work):
            return
        row = Row(case, work, peer=peer_name, bar=bar, memory=memory, note=skip)
        try:
            row.took, row.theirs = paired(ours, None if skip else peer, times or self.times, before)
        except Failed as failed:
            row.note = f"failed: {failed}"
        self.rows.append(row)
        took = f"{row.took.wall:.2f} s" if row.took else "-"
        ratio = f", {row.ratio:.2f} of {peer_name}" if row.ratio else ""
        self.say(f"  {case}: {work}: {took}{ratio}{' (' + row.note + ')' if row.note else ''}")

    def folder(self, name):
        path = os.path.join(self.scratch, name)
        os.makedirs(path, exist_ok=True)
        return path

    def made(self, folder, made):
        """Makes a case once for a scratch folder."""
        mark = os.path.join(folder, "made")
        if not os.path.exists(mark):
            self.say(f"making {os.path.basename(folder)}")
            made()
            open(mark, "w").close()

    def command(self, *args):
        return [self.trtmut, "-q", *args]

    def setup(self, *args):
        """Runs trtmut for what a row starts from."""
        run(self.command(*args))

    def hashing(self, *files):
        return [*self.b3sum, *files] if self.b3sum else None


def copied(source, target):
    """A copy that is on the disk."""

    def copy():
        subprocess.run(["cp", "--reflink=never", source, target], check=True)
        subprocess.run(["sync", target], check=True)

    return copy


def remove(*paths):
    def removed():
        for path in paths:
            for each in (path, f"{path}.json"):
                if os.path.isdir(each):
                    shutil.rmtree(each)
                elif os.path.exists(each):
                    os.remove(each)

    return removed


def largest(layers, dtype):
    return max(make.WIDTH[dtype] * make.np.prod(s, dtype=make.np.int64) for _, _, s, _ in layers)


def limit(layers, dtype):
    return int(256 * MIB + 4 * largest(layers, dtype))


def unet(b, name, layers, everything=True):
    """Diffs, refits and builds of one model."""
    f = b.folder(name)
    b.made(f, lambda: make.case(f, layers, "F16"))
    at = lambda file: os.path.join(f, file)
    os.chdir(f)
    os.environ["TRTMUT_CACHE_DIR"] = at("cache")
    memory = limit(layers, "F16")
    build = b.command("build", "model.onnx", "--backend", "cpu", "--no-cache", "--force")
    proven = ["--base-weights", "base.safetensors"]
    if not os.path.exists("engine.plan"):
        run([*build, *proven, "-o", "engine.plan"])
    data = ["engine.plan", "model.onnx", "model.onnx.data"]
    if everything:
        plain = [*build, "-o", "out.plan"]
        b.add(name, "build --base-weights", [*plain, *proven], plain, "build", bar=1.5, before=remove("out.plan"), times=1)
        remove("out.plan")()
    diff = lambda new: b.command("diff", "engine.plan", f"{new}.safetensors")
    new = b.hashing("fused.safetensors")
    missing = "" if b.b3sum else "no b3sum"
    b.add(name, "diff, first look", diff("fused"), b.hashing(*data, "fused.safetensors"), "b3sum of all files", bar=1.3,
          memory=memory, before=remove("cache"), skip=missing)
    run(diff("fused"))
    b.add(name, "diff, plan and model known", diff("fused"), new, "b3sum of the new file", bar=1.3, memory=memory, skip=missing)
    b.add(name, "diff, nothing changed", diff("base"), b.hashing("base.safetensors"), "b3sum", bar=1.15, memory=memory, skip=missing)
    compare = [sys.executable, PEERS, "compare", "base.safetensors", "fused.safetensors"]
    b.add(name, "diff, known, against numpy", diff("fused"), compare, "numpy array_equal", bar=0.2, times=max(1, b.times // 2))
    b.add(name, "diff of all tensors changed", diff("other"), b.hashing("other.safetensors"), "b3sum", memory=memory, skip=missing)
    b.add(name, "map", b.command("map", "engine.plan"), memory=memory, times=1)
    copy, fresh = copied("engine.plan", "copy.plan"), remove("out.plan", "copy.plan")
    refit = lambda *what: b.command("refit", "engine.plan", *what, "-o", "out.plan")
    b.add(name, "refit, all tensors changed", refit("other.safetensors"), copy, "cp + sync", bar=1.3, memory=memory, before=fresh)
    b.add(name, "refit, 11 % changed", refit("fused.safetensors"), copy, "cp + sync", bar=1.1, memory=memory, before=fresh)
    fresh()
    merge = [sys.executable, PEERS, "merge", "base.safetensors", "lora.safetensors", "merged.safetensors"]
    try:
        subprocess.run([sys.executable, "-c", "import torch, peft"], check=True, capture_output=True)
        peft = ""
    except subprocess.CalledProcessError:
        peft = "no torch and PEFT"
    lora = refit("--lora", "lora.safetensors")
    b.add(name, "refit --lora", lora, merge, "PEFT load, merge, save", bar=0.15, memory=memory,
          before=remove("out.plan", "merged.safetensors"), skip=peft, times=1 if not peft else None)
    b.add(name, "refit --lora, against a copy", lora, copy, "cp + sync", before=fresh)
    remove("out.plan", "copy.plan", "merged.safetensors")()
    if everything:
        cached(b, name, layers)


def cached(b, name, layers):
    """A build that finds its engine in the cache, with other weights."""
    if not b.wants(name, "cache hit with other weights"):
        return
    f = b.folder(f"{name}-other")
    size = os.path.getsize("model.onnx.data")

    def other():
        shutil.copy("model.onnx", f)
        with open(f"{f}/model.onnx.data", "wb") as out:
            for i, at in enumerate(range(0, size, 64 * MIB)):
                out.write(make.values("F16", min(64 * MIB, size - at) // 2, 9_000_000 + i))
            os.fsync(out.fileno())

    b.made(f, other)
    build = lambda model: b.command("build", model, "--backend", "cpu", "--cache-dir", "engines", "--force", "-o", "out.plan")
    run(build("model.onnx"))
    run(build(f"{f}/model.onnx"))
    copy, fresh = copied("engine.plan", "copy.plan"), remove("out.plan", "copy.plan")
    b.add(name, "cache hit with other weights", build(f"{f}/model.onnx"), copy, "cp + sync", bar=1.3, before=fresh)
    remove("out.plan", "copy.plan", "engines")()
    shutil.rmtree(f)


def reflink(b, name):
    """A refit of 11 % where unchanged ranges need not be copied."""
    work = "refit, 11 % changed, reflink"
    if not b.wants(name, work):
        return
    source, mount, image = b.folder(name), os.path.join(b.scratch, "btrfs"), os.path.join(b.scratch, "btrfs.img")
    files = ["engine.plan", "engine.plan.json", "model.onnx", "model.onnx.data", "fused.safetensors"]
    room = sum(os.path.getsize(f"{source}/{file}") for file in files) * 2 + 512 * MIB
    os.makedirs(mount, exist_ok=True)
    try:
        with open(image, "wb") as out:
            out.truncate(room)
        subprocess.run(["mkfs.btrfs", "-q", "-f", image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", image, mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        b.rows.append(Row(name, work, peer="cp + sync", bar=0.3, note="skipped: no loop-mounted btrfs here"))
        os.remove(image)
        return
    try:
        for file in files:
            shutil.copy(f"{source}/{file}", mount)
        os.chdir(mount)
        refit = b.command("refit", "engine.plan", "fused.safetensors", "-o", "out.plan")
        copy, fresh = copied("engine.plan", "copy.plan"), remove("out.plan", "copy.plan")
        run(refit)
        b.add(name, work, refit, copy, "cp + sync", bar=0.3, before=fresh)
    finally:
        os.chdir(b.scratch)
        subprocess.run(["umount", mount], check=True)
        os.remove(image)


def matrices(b, count, side):
    """Matrices that the exporter transposed, all of them changed."""
    name = f"{count} f32 matrices"
    if not b.wants(name, "refit"):
        return
    f = b.folder(f"matrices-{count}-{side}")
    layers = inventories.matrices(count, side)
    b.made(f, lambda: make.case(f, layers, "F32", wanted=("other",)))
    os.chdir(f)
    os.environ["TRTMUT_CACHE_DIR"] = os.path.join(f, "cache")
    b.setup("build", "model.onnx", "--backend", "cpu", "--no-cache", "--base-weights", "base.safetensors", "--force", "-o", "engine.plan")
    refit = b.command("refit", "engine.plan", "other.safetensors", "-o", "out.plan")
    copy, fresh = copied("engine.plan", "copy.plan"), remove("out.plan", "copy.plan")
    b.add(name, "refit, all transposed, all changed", refit, copy, "cp + sync", bar=1.5, memory=limit(layers, "F32"), before=fresh)
    fresh()


def graphs(b, sizes):
    """Two graphs that differ in one attribute."""
    f = b.folder("graphs")
    os.chdir(f)
    try:
        subprocess.run([sys.executable, "-c", "import onnx"], check=True, capture_output=True)
        missing = ""
    except subprocess.CalledProcessError:
        missing = "no onnx package"
    for n in sizes:
        if not b.wants(f"{n} nodes", "diff of two graphs"):
            continue
        b.made(b.folder(f"graphs/{n}"), lambda: [make.nodes_case(f"{n}/{k}.onnx", n, a) for k, a in (("a", 0.1), ("b", 0.2))])
        load = [sys.executable, PEERS, "load", f"{n}/a.onnx", f"{n}/b.onnx"]
        b.add(f"{n} nodes", "diff of two graphs", b.command("diff", f"{n}/a.onnx", f"{n}/b.onnx"), load, "onnx.load of both",
              bar=0.25, skip=missing)
        b.growth.setdefault("diff of two graphs, by nodes", []).append((n, b.rows[-1]))


# Layers in a row in the models of many weights. A model has few outputs, and the planner of the embedded engine (rten 0.27) holds each of
# them against each other.
DEPTH = 100


def many(b, sizes, side, what, memory):
    """Plans of many small weights, all of one shape."""
    for n in sizes:
        name = f"{n} {what}"
        if not b.wants(name, "diff plan build"):
            continue
        f = b.folder(f"many-{n}-{side}-{DEPTH}")
        layers = inventories.matrices(n, side)
        b.made(f, lambda: make.case(f, layers, "F16", wanted=("other",), depth=DEPTH))
        os.chdir(f)
        os.environ["TRTMUT_CACHE_DIR"] = os.path.join(f, "cache")
        build = b.command("build", "model.onnx", "--backend", "cpu", "--no-cache", "--base-weights", "base.safetensors", "--force", "-o", "engine.plan")
        b.add(name, "build --base-weights", build, times=1)
        b.growth.setdefault(f"build --base-weights, by {what}", []).append((n, b.rows[-1]))
        diff = b.command("diff", "engine.plan", "other.safetensors")
        try:
            run(diff)
        except Failed as failed:
            b.say(str(failed))
        b.add(name, "diff", diff, memory=memory)
        b.growth.setdefault(f"diff, by {what}", []).append((n, b.rows[-1]))


def flux(b):
    """Headers and memory of 11.9 B parameters; the file is sparse."""
    name, f = "FLUX", b.folder("flux")
    shapes = list(inventories.flux().items())
    b.made(f, lambda: [make.sparse(f"{f}/{k}.safetensors", shapes, "BF16") for k in "ab"])
    os.chdir(f)
    biggest = max(2 * make.np.prod(s, dtype=make.np.int64) for _, s in shapes)
    memory = int(256 * MIB + 4 * biggest)
    b.add(name, "inspect", b.command("inspect", "a.safetensors"), memory=memory)
    b.add(name, "diff of two checkpoints", b.command("diff", "a.safetensors", "b.safetensors"), memory=memory, times=1)


def header(b):
    """A safetensors header of close to 100 MB."""
    name, f = "100 MB header", b.folder("header")
    shapes = [(f"blocks.{i:07}.a.module.with.a.long.name.weight", (1,)) for i in range(720_000)]
    b.made(f, lambda: make.sparse(f"{f}/a.safetensors", shapes, "F16"))
    os.chdir(f)
    b.add(name, "inspect", b.command("inspect", "a.safetensors"), memory=1024 * MIB, times=1)

"""The rows of the benchmark: what is done, what it is compared with, and which ratio is the bar."""

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import inventories
import make
from measure import Failed, Took, forget, paired, run

MIB = 1 << 20
PEERS = os.path.join(os.path.dirname(__file__), "peers.py")


# A row grows as its size does where it takes at most so many times as much CPU for so many times the size: names in maps cost a
# logarithm, and large maps leave the caches.
LINEAR = 1.25


@dataclass
class Row:
    case: str
    work: str
    took: Took | None = None
    peer: str = ""
    theirs: Took | None = None
    bar: float | None = None
    # Most anonymous memory in bytes, and as a share of the peer's.
    memory: int | None = None
    share: float | None = None
    # The row of a smaller size, and how many times as large this one is.
    smaller: "tuple[Row, float] | None" = None
    note: str = ""

    @property
    def ratio(self):
        return self.took.wall / self.theirs.wall if self.took and self.theirs else None

    @property
    def growth(self):
        """How many times the CPU of the smaller row."""
        if self.smaller and self.took and self.smaller[0].took:
            return self.took.cpu / self.smaller[0].took.cpu
        return None

    def missed(self):
        """Which bars are missed, in words."""
        found = []
        if self.bar and self.ratio and self.ratio > self.bar:
            found.append(f"ratio {self.ratio:.2f} > {self.bar}")
        if self.growth and self.growth > LINEAR * self.smaller[1]:
            found.append(f"{self.growth:.1f} times the CPU for {self.smaller[1]:.1f} times the size")
        if self.memory and self.took and self.took.anonymous > self.memory:
            found.append(f"memory {self.took.anonymous // MIB} MiB > {self.memory // MIB} MiB")
        if self.share and self.took and self.theirs and self.took.anonymous > self.share * self.theirs.anonymous:
            found.append(f"memory {self.took.anonymous // MIB} MiB > {self.share} of {self.theirs.anonymous // MIB} MiB")
        return found


@dataclass
class Bench:
    trtmut: str
    scratch: str
    times: int
    # Only rows whose case and work contain one of these.
    only: list
    b3sum: list | None
    # Called after each row: a run that is cut short leaves what it has.
    changed: Callable[[], None] = lambda: None
    rows: list = field(default_factory=list)
    growth: dict = field(default_factory=dict)
    folders: set = field(default_factory=set)

    def wants(self, case, *works):
        return any(text in f"{case}: {work}" for text in self.only for work in works)

    def say(self, text):
        print(text, file=sys.stderr, flush=True)

    def add(self, case, work, ours, peer=None, peer_name="", before=lambda: None, skip="", times=None, **bars):
        """Measures a row, unless it was not asked for."""
        if not self.wants(case, work):
            return
        row = Row(case, work, peer=peer_name, note=skip, **bars)
        try:
            row.took, row.theirs = paired(ours, None if skip else peer, times or self.times, before)
        except Failed as failed:
            row.note = f"failed: {failed}"
        self.rows.append(row)
        self.changed()
        took = f"{row.took.wall:.2f} s" if row.took else "-"
        ratio = f", {row.ratio:.2f} of {peer_name}" if row.ratio else ""
        self.say(f"  {case}: {work}: {took}{ratio}{' (' + row.note + ')' if row.note else ''}")

    def grow(self, name, size, *args, **bars):
        """A row of a series, whose CPU grows as the size does."""
        line = self.growth.setdefault(name, [])
        smaller = (line[-1][1], size / line[-1][0]) if line else None
        before = len(self.rows)
        self.add(*args, smaller=smaller, **bars)
        line.extend((size, row) for row in self.rows[before:])

    def folder(self, name):
        path = os.path.join(self.scratch, name)
        os.makedirs(path, exist_ok=True)
        self.folders.add(path)
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
    return max(make.WIDTH[dtype] * math.prod(s) for _, _, s, _ in layers)


def limit(layers, dtype):
    return int(256 * MIB + 4 * largest(layers, dtype))


UNET = (
    "build --base-weights",
    "diff, first look",
    "diff, plan and model known",
    "diff, nothing changed",
    "diff, known, against numpy",
    "diff --measure all",
    "diff of all tensors changed",
    "map",
    "refit, all tensors changed",
    "refit, 11 % changed",
    "refit --lora",
    "refit --lora, against a copy",
    "diff, plan and model known, cold page cache",
    "refit, 11 % changed, cold page cache",
)
CACHED = "cache hit with other weights"


def unet(b, name, layers, everything=True):
    """Diffs, refits and builds of one model; of one that is too large for `everything`, diffs and refits of fused weights."""
    if not b.wants(name, *UNET, CACHED):
        return
    f = b.folder(name)
    b.made(f, lambda: make.case(f, layers, "F16", ("fused", "other", "lora") if everything else ("fused", "lora")))
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
        b.add(name, "build --base-weights", [*plain, *proven], plain, "build", bar=1.5, memory=memory, before=remove("out.plan"), times=1)
        remove("out.plan")()
    diff = lambda new, *more: b.command("diff", "engine.plan", f"{new}.safetensors", *more)
    new = b.hashing("fused.safetensors")
    missing = "" if b.b3sum else "no b3sum"
    b.add(name, "diff, first look", diff("fused"), b.hashing(*data, "fused.safetensors"), "b3sum of all files", bar=1.3,
          memory=memory, before=remove("cache"), skip=missing)
    run(diff("fused"))
    b.add(name, "diff, plan and model known", diff("fused"), new, "b3sum of the new file", bar=1.3, memory=memory, skip=missing)
    b.add(name, "diff, nothing changed", diff("base"), b.hashing("base.safetensors"), "b3sum", bar=1.15, memory=memory, skip=missing)
    compare = [sys.executable, PEERS, "compare", "base.safetensors", "fused.safetensors"]
    few = max(1, b.times // 2)
    b.add(name, "diff, known, against numpy", diff("fused"), compare, "numpy array_equal", bar=0.2, times=few)
    b.add(name, "diff --measure all", diff("fused", "--measure", "all"), compare, "numpy array_equal", memory=memory, times=few)
    if everything:
        b.add(name, "diff of all tensors changed", diff("other"), b.hashing("other.safetensors"), "b3sum", memory=memory, skip=missing)
    b.add(name, "map", b.command("map", "engine.plan"), memory=memory, times=1)
    refits(b, name, memory, everything)
    cold = forget(f)
    b.add(name, "diff, plan and model known, cold page cache", diff("fused"), new, "b3sum of the new file", before=cold, skip=missing, times=1)
    copy, fresh = copied("engine.plan", "copy.plan"), remove("out.plan", "copy.plan")
    refit = b.command("refit", "engine.plan", "fused.safetensors", "-o", "out.plan")
    b.add(name, "refit, 11 % changed, cold page cache", refit, copy, "cp + sync", before=lambda: [fresh(), cold()], times=1)
    fresh()
    if everything:
        cached(b, name, layers)


def refits(b, name, memory, everything):
    copy, fresh = copied("engine.plan", "copy.plan"), remove("out.plan", "copy.plan")
    refit = lambda *what: b.command("refit", "engine.plan", *what, "-o", "out.plan")
    if everything:
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
    b.add(name, "refit --lora", lora, merge, "PEFT load, merge, save", bar=0.15, memory=memory, share=0.25,
          before=remove("out.plan", "merged.safetensors"), skip=peft, times=1 if not peft else None)
    b.add(name, "refit --lora, against a copy", lora, copy, "cp + sync", before=fresh)
    remove("out.plan", "copy.plan", "merged.safetensors")()


def cached(b, name, layers):
    """A build that finds its engine in the cache, with other weights."""
    if not b.wants(name, CACHED):
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
    b.add(name, CACHED, build(f"{f}/model.onnx"), copy, "cp + sync", bar=1.3, before=fresh)
    remove("out.plan", "copy.plan", "engines")()
    shutil.rmtree(f)


def reflink(b, name, layers):
    """A refit of 11 % where unchanged ranges need not be copied."""
    work = "refit, 11 % changed, reflink"
    if not b.wants(name, work):
        return
    source, mount, image = b.folder(name), os.path.join(b.scratch, "reflink"), os.path.join(b.scratch, "reflink.img")
    files = ["engine.plan", "engine.plan.json", "model.onnx", "model.onnx.data", "fused.safetensors"]
    if not all(os.path.exists(f"{source}/{file}") for file in files):
        # Asked for alone, the model was not made.
        unet(replace(b, only=[f"{name}: map"], rows=[]), name, layers)
    room = sum(os.path.getsize(f"{source}/{file}") for file in files) * 2 + 512 * MIB
    os.makedirs(mount, exist_ok=True)
    refused = ""
    for make_system in (["mkfs.btrfs", "-q", "-f", image], ["mkfs.xfs", "-q", "-f", "-m", "reflink=1", image]):
        try:
            with open(image, "wb") as out:
                out.truncate(room)
            subprocess.run(make_system, check=True, capture_output=True, text=True)
            subprocess.run(["mount", "-o", "loop", image, mount], check=True, capture_output=True, text=True)
            break
        except (OSError, subprocess.CalledProcessError) as e:
            refused += f"; {getattr(e, 'stderr', None) or e}".replace("\n", " ")
            os.remove(image)
    else:
        b.rows.append(Row(name, work, peer="cp + sync", bar=0.3, note=f"skipped: no loop-mounted btrfs or XFS{refused}"))
        b.changed()
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
    work = "refit, all transposed, all changed"
    if not b.wants(name, work):
        return
    f = b.folder(f"matrices-{count}-{side}")
    layers = inventories.matrices(count, side)
    b.made(f, lambda: make.case(f, layers, "F32", wanted=("other",)))
    os.chdir(f)
    os.environ["TRTMUT_CACHE_DIR"] = os.path.join(f, "cache")
    b.setup("build", "model.onnx", "--backend", "cpu", "--no-cache", "--base-weights", "base.safetensors", "--force", "-o", "engine.plan")
    refit = b.command("refit", "engine.plan", "other.safetensors", "-o", "out.plan")
    copy, fresh = copied("engine.plan", "copy.plan"), remove("out.plan", "copy.plan")
    b.add(name, work, refit, copy, "cp + sync", bar=1.5, memory=limit(layers, "F32"), before=fresh)
    fresh()


def graphs(b, sizes):
    """Two graphs that differ in one attribute."""
    if not any(b.wants(f"{n} nodes", "diff of two graphs") for n in sizes):
        return
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
        b.grow("diff of two graphs, by nodes", n, f"{n} nodes", "diff of two graphs",
               b.command("diff", f"{n}/a.onnx", f"{n}/b.onnx"), load, "onnx.load of both", bar=0.25, skip=missing)


# Layers in a row in the models of many weights. A model has few outputs, and the planner of the embedded engine (rten 0.27) holds each of
# them against each other.
DEPTH = 100


def many(b, sizes, side, what, memory):
    """Plans of many small weights, all of one shape."""
    for n in sizes:
        name = f"{n} {what}"
        if not b.wants(name, "build --base-weights", "diff"):
            continue
        f = b.folder(f"many-{n}-{side}-{DEPTH}")
        layers = inventories.matrices(n, side)
        b.made(f, lambda: make.case(f, layers, "F16", wanted=("other",), depth=DEPTH))
        os.chdir(f)
        os.environ["TRTMUT_CACHE_DIR"] = os.path.join(f, "cache")
        build = b.command("build", "model.onnx", "--backend", "cpu", "--no-cache", "--base-weights", "base.safetensors", "--force", "-o", "engine.plan")
        b.grow(f"build --base-weights, by {what}", n, name, "build --base-weights", build, times=1)
        diff = b.command("diff", "engine.plan", "other.safetensors")
        try:
            if not os.path.exists("engine.plan"):
                run(build)
            run(diff)
        except Failed as failed:
            b.say(str(failed))
        b.grow(f"diff, by {what}", n, name, "diff", diff, memory=memory)


def flux(b):
    """Headers and memory of 11.9 B parameters; the files are sparse."""
    name, work = "FLUX", "diff of two checkpoints"
    if not b.wants(name, work):
        return
    f = b.folder("flux")
    shapes = list(inventories.flux().items())
    b.made(f, lambda: [make.sparse(f"{f}/{k}.safetensors", shapes, "BF16") for k in "ab"])
    os.chdir(f)
    memory = 256 * MIB + 4 * max(2 * math.prod(s) for _, s in shapes)
    b.add(name, work, b.command("diff", "a.safetensors", "b.safetensors"), memory=memory, times=1)


def headers(b):
    """A safetensors header of close to 100 MB, and three of close to that under an index of 3 M entries, beside a small plan."""
    work, most = "diff of a plan and a checkpoint", 1024 * MIB
    f = os.path.join(b.scratch, "headers")

    def small():
        make.case(f, inventories.matrices(1, 32), "F16", wanted=())
        os.chdir(f)
        b.setup("build", "model.onnx", "--backend", "cpu", "--no-cache", "--base-weights", "base.safetensors", "-o", "engine.plan")

    def one():
        shapes = [(f"blocks.{i:07}.a.module.with.a.long.name.weight", (1,)) for i in range(720_000)]
        make.sparse(f"{f}/a.safetensors", shapes, "F16")

    cases = (
        ("100 MB header", one, "a.safetensors"),
        ("3 M index entries", lambda: make.index(f, 3, 1_000_000), "model.safetensors.index.json"),
    )
    for name, made, file in cases:
        if not b.wants(name, work):
            continue
        b.made(b.folder("headers"), small)
        b.made(b.folder(f"headers/{name}"), made)
        os.chdir(f)
        os.environ["TRTMUT_CACHE_DIR"] = os.path.join(f, "cache")
        b.add(name, work, b.command("diff", "engine.plan", file), memory=most, times=1)

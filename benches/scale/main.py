"""Runs the rows that were asked for and prints the table."""

import argparse
import datetime
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile

import inventories
import plot
import rows

GIB = 1 << 30


def arguments():
    parser = argparse.ArgumentParser(prog="benches/scale.sh", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="300 MB instead of Stable Diffusion 1.5, in two minutes")
    parser.add_argument("--large", action="store_true", help="also SDXL (2.57 B parameters) and the headers of FLUX (11.9 B)")
    parser.add_argument("--rows", action="append", metavar="TEXT", help="only rows that contain TEXT as `case: work`; may be repeated")
    parser.add_argument("--times", type=int, default=3, metavar="N", help="pairs of runs of each row (default: 3)")
    parser.add_argument("--scratch", metavar="FOLDER", help="where files are made and kept (default: a temporary folder)")
    parser.add_argument("--table", metavar="FILE", help="where the table is written after every row")
    parser.add_argument("--plot", default="growth.svg", metavar="FILE", help="where the growth plot goes (default: growth.svg)")
    return parser.parse_args()


def machine():
    model = platform.processor() or platform.machine()
    with open("/proc/cpuinfo") as info:
        names = [line.split(":", 1)[1].strip() for line in info if line.startswith("model name")]
    with open("/proc/meminfo") as info:
        memory = int(info.readline().split()[1]) / (1 << 20)
    return f"{names[0] if names else model}, {os.cpu_count()} cores, {memory:.0f} GiB"


def table(found):
    shown = lambda t: f"{t.wall:.2f} s" if t else "-"
    mib = lambda t: f"{t.anonymous >> 20} MiB" if t and t.anonymous else "-"
    lines = [
        "| case | work | trtmut | CPU | memory | peer | took | memory | ratio | bar |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in found:
        memory = mib(r.took) + (f" of {r.memory >> 20}" if r.memory else "")
        grown = f"{r.growth:.1f} × CPU for {r.smaller[1]:.1f} ×" if r.growth else ""
        parts = [f"{r.ratio:.2f}" if r.ratio else "", grown, r.note.splitlines()[0][:60] if r.note else ""]
        ratio = "; ".join(p for p in parts if p) or "-"
        bar = "; ".join(([f"≤ {r.bar}"] if r.bar else []) + (["linear"] if r.growth else []))
        bar += " missed" if r.missed() else ""
        cpu = f"{r.took.cpu:.2f} s" if r.took else "-"
        cells = [r.case, r.work, shown(r.took), cpu, memory, r.peer, shown(r.theirs), mib(r.theirs), ratio, bar.strip()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def report(b, head):
    """All that was found so far, as text."""
    missed = [(r, why) for r in b.rows for why in r.missed()]
    count = "1 bar missed" if len(missed) == 1 else f"{len(missed)} bars missed"
    lines = [head, "", table(b.rows), "", count]
    lines += [f"  {r.case}: {r.work}: {why}" for r, why in missed]
    lines += [f"  {r.case}: {r.work}: {r.note}" for r in failures(b)]
    return "\n".join(lines) + "\n"


def failures(b):
    return [r for r in b.rows if r.note.startswith("failed")]


def growth(b):
    series = {name: [(n, r.took.wall) for n, r in points if r.took] for name, points in b.growth.items()}
    return plot.svg({name: line for name, line in series.items() if len(line) > 1})


def write(path, text):
    if path and text:
        with open(path, "w") as out:
            out.write(text)


def room(folder, bytes_needed):
    free = shutil.disk_usage(folder).free
    if free < bytes_needed:
        sys.exit(f"{folder} has {free / GIB:.0f} GiB free; {bytes_needed / GIB:.0f} GiB are needed (--scratch names another place)")


def main():
    args = arguments()
    trtmut = os.path.abspath(os.environ["TRTMUT"])
    os.environ["TRTMUT_NO_PROGRESS"] = "1"
    for name in ("TRTMUT_CACHE_REMOTE", "TRTMUT_CACHE_SIZE"):
        os.environ.pop(name, None)
    b3sum = shutil.which(os.environ.get("B3SUM") or "b3sum")
    plotted, listed = os.path.abspath(args.plot), os.path.abspath(args.table) if args.table else None
    temporary = None if args.scratch else tempfile.mkdtemp(prefix="trtmut-scale.")
    scratch = os.path.abspath(args.scratch or temporary)
    os.makedirs(scratch, exist_ok=True)
    os.environ["TRTMUT_CACHE_DIR"] = os.path.join(scratch, "cache")
    b = rows.Bench(trtmut, scratch, args.times, args.rows or [""], [os.path.abspath(b3sum)] if b3sum else None)
    version = subprocess.run([trtmut, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    head = f"{version}; {machine()}; {datetime.date.today()}; benches/scale.sh {shlex.join(sys.argv[1:])}"

    def changed():
        write(listed, report(b, head))
        write(plotted, growth(b))

    b.changed = changed
    # What was measured is printed whatever ends the run.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        measure(b, args, scratch)
    finally:
        os.chdir("/")
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
        print(report(b, head), end="")
        if growth(b):
            print(f"growth: {plotted}")
    sys.exit(1 if failures(b) else 0)


def measure(b, args, scratch):
    if args.quick:
        room(scratch, 5 * GIB)
        rows.unet(b, "300 MB", inventories.small())
        rows.reflink(b, "300 MB", inventories.small())
        rows.matrices(b, 4, 2048)
        rows.graphs(b, (1_000, 10_000))
        rows.many(b, (1_000, 3_000, 10_000), 32, "small weights", 128 * rows.MIB)
    else:
        room(scratch, 17 * GIB)
        rows.unet(b, "SD 1.5", inventories.sd15())
        rows.reflink(b, "SD 1.5", inventories.sd15())
        rows.matrices(b, 16, 4096)
        rows.graphs(b, (1_000, 10_000, 50_000))
        rows.many(b, (1_000, 3_300, 10_000, 33_000), 32, "small weights", 128 * rows.MIB)
        rows.many(b, (10_000, 100_000), 8, "tensors of one shape", None)
        rows.headers(b)
        if args.large and b.wants("SDXL", *rows.UNET):
            # One at a time: of the others only what this run made is in the way.
            os.chdir(scratch)
            for path in b.folders:
                shutil.rmtree(path, ignore_errors=True)
            if not os.path.exists(os.path.join(scratch, "SDXL")):
                room(scratch, 25 * GIB)
            rows.unet(b, "SDXL", inventories.sdxl(), everything=False)
        if args.large:
            rows.flux(b)


main()

"""Runs the rows that were asked for and prints the table."""

import argparse
import datetime
import os
import platform
import shutil
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
    parser.add_argument("--rows", default="", metavar="TEXT", help="only rows whose case or work contain TEXT")
    parser.add_argument("--times", type=int, default=3, metavar="N", help="pairs of runs of each row (default: 3)")
    parser.add_argument("--scratch", metavar="FOLDER", help="where files are made and kept (default: a temporary folder)")
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
    lines = [
        "| case | work | trtmut | CPU | memory | peer | took | ratio | bar |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in found:
        memory = f"{r.took.anonymous >> 20} MiB" if r.took and r.took.anonymous else "-"
        if r.memory:
            memory += f" of {r.memory >> 20}"
        ratio = f"{r.ratio:.2f}" if r.ratio else r.note.splitlines()[0][:60] if r.note else "-"
        bar = f"≤ {r.bar}" if r.bar else ""
        bar += " missed" if r.missed() else ""
        cpu = f"{r.took.cpu:.2f} s" if r.took else "-"
        lines.append(f"| {r.case} | {r.work} | {shown(r.took)} | {cpu} | {memory} | {r.peer} | {shown(r.theirs)} | {ratio} | {bar} |")
    return "\n".join(lines)


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
    b3sum = os.environ.get("B3SUM") or shutil.which("b3sum")
    plotted = os.path.abspath(args.plot)
    temporary = None if args.scratch else tempfile.mkdtemp(prefix="trtmut-scale.")
    scratch = os.path.abspath(args.scratch or temporary)
    os.makedirs(scratch, exist_ok=True)
    os.environ["TRTMUT_CACHE_DIR"] = os.path.join(scratch, "cache")
    b = rows.Bench(trtmut, scratch, args.times, args.rows, [b3sum] if b3sum else None)
    version = subprocess.run([trtmut, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    try:
        if args.quick:
            room(scratch, 5 * GIB)
            rows.unet(b, "300 MB", inventories.small())
            rows.matrices(b, 4, 2048)
            rows.graphs(b, (1_000, 10_000))
            rows.many(b, (1_000, 3_000, 10_000), 32, "small weights", 128 * rows.MIB)
        else:
            room(scratch, 25 * GIB if args.large else 17 * GIB)
            rows.unet(b, "SD 1.5", inventories.sd15())
            rows.reflink(b, "SD 1.5")
            rows.matrices(b, 16, 4096)
            rows.graphs(b, (1_000, 10_000, 50_000))
            rows.many(b, (1_000, 3_300, 10_000, 33_000), 32, "small weights", 128 * rows.MIB)
            rows.many(b, (10_000, 100_000), 8, "tensors of one shape", None)
            rows.header(b)
            if args.large:
                os.chdir(scratch)
                for name in os.listdir(scratch):
                    if name != "SDXL" and os.path.isdir(name):
                        shutil.rmtree(name)
                rows.unet(b, "SDXL", inventories.sdxl(), everything=False)
                rows.flux(b)
    finally:
        os.chdir("/")
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
    print(f"{version}; {machine()}; {datetime.date.today()}; benches/scale.sh {' '.join(sys.argv[1:])}\n")
    print(table(b.rows))
    series = {name: [(n, r.took.wall) for n, r in points if r.took] for name, points in b.growth.items()}
    drawn = plot.svg({name: line for name, line in series.items() if len(line) > 1})
    if drawn:
        with open(plotted, "w") as out:
            out.write(drawn)
        print(f"\ngrowth: {plotted}")
    missed = [(r, why) for r in b.rows for why in r.missed()]
    print(f"\n{len(missed)} bars missed" + "".join(f"\n  {r.case}: {r.work}: {why}" for r, why in missed))
    failed = [r for r in b.rows if r.note.startswith("failed")]
    for r in failed:
        print(f"  {r.case}: {r.work}: {r.note}")
    sys.exit(1 if failed else 0)


main()

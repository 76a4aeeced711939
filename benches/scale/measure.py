"""Runs commands and says what they took: wall and CPU seconds, peak anonymous memory."""

import os
import statistics
import subprocess
import threading
import time
from dataclasses import dataclass


@dataclass
class Took:
    wall: float
    cpu: float
    anonymous: int


class Failed(Exception):
    """A command of a row failed; the row says so and the others go on."""


def anonymous(pid):
    """RssAnon in bytes: neither mapped files nor the page cache."""
    try:
        with open(f"/proc/{pid}/status") as status:
            for line in status:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def run(command, **options):
    """Runs `command` (a list, or a function that runs in this process and returns nothing)."""
    if callable(command):
        before, start = os.times(), time.perf_counter()
        command()
        wall, after = time.perf_counter() - start, os.times()
        return Took(wall, after.user + after.system - before.user - before.system, 0)
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options)
    peak, ended = 0, threading.Event()

    def sample():
        nonlocal peak
        while not ended.wait(0.002):
            peak = max(peak, anonymous(process.pid))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
    except BaseException:
        # The benchmark is ended; what it measures is not to go on without it.
        process.kill()
        raise
    finally:
        ended.set()
        sampler.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}: {said.decode(errors='replace').strip()}")
    return Took(wall, usage.ru_utime + usage.ru_stime, peak)


def median(several):
    """The run whose wall time is in the middle, with the largest memory of all."""
    several = sorted(several, key=lambda t: t.wall)
    middle = several[len(several) // 2]
    return Took(statistics.median(t.wall for t in several), middle.cpu, max(t.anonymous for t in several))


def paired(ours, peer, times, before=lambda: None):
    """Both in turn, `times` times; `before` makes each run start from the same state."""
    own, others = [], []
    for _ in range(times):
        before()
        own.append(run(ours))
        if peer:
            before()
            others.append(run(peer))
    return median(own), median(others) if peer else None


def forget(*folders):
    """Takes the files of folders out of the page cache, as far as the system does what it is asked for."""

    def forgotten():
        for folder in folders:
            for entry in os.scandir(folder):
                if entry.is_file():
                    file = os.open(entry.path, os.O_RDONLY)
                    # What is not on the disk yet stays.
                    os.fsync(file)
                    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                    os.close(file)

    return forgotten

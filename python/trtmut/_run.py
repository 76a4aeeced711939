"""Running the binary, and what it says as Python values."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from typing import Any, Sequence, Union

Argument = Union[str, "os.PathLike[str]"]


class Error(Exception):
    """A command that failed, with what it said.

    ``code`` is the stable name of the way of failing (``"needs-recompile"``), ``exit_code`` what the process ended with,
    ``hints`` say how to fix it, and ``document`` is the whole ``trtmut.error`` document, or the result of a command that
    ended with another code than 0, such as outputs that differ (40).
    """

    def __init__(self, document: dict[str, Any], exit_code: int) -> None:
        self.document = document
        self.exit_code = exit_code
        self.code: str = document.get("code", "")
        self.hints: list[str] = list(document.get("hints", []))
        message = document.get("message", f"trtmut ended with exit code {exit_code}")
        lines = [message, *document.get("causes", []), *(f"hint: {hint}" for hint in self.hints)]
        super().__init__("\n".join(lines))


def binary() -> str:
    """Path of the program: of this package's own one, else of the one on the path."""
    name = "trtmut"
    folders = [
        sysconfig.get_path("scripts"),
        # Where the interpreter is a link, its packages' programs are beside the link.
        os.path.dirname(sys.executable),
        sysconfig.get_path("scripts", scheme=f"{os.name}_user"),
        # pip install --target
        os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "bin"),
    ]
    for folder in folders:
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK):
            return path
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"there is no program `{name}` in {', '.join(folders)} or on the path")
    return found


def run(args: Sequence[Argument]) -> dict[str, Any]:
    """Runs ``trtmut`` with ``args`` and ``--json``, and returns the document that it prints.

    >>> run(["diff", "engine.plan", "fused.safetensors"])["verdict"]
    'NEEDS_REFIT'

    What is said on stderr appears there. ``diff --exit-code`` returns its document whatever the verdict is.

    :raises Error: where the command fails, or ends with a code that says so (40: outputs differ).
    """
    if isinstance(args, (str, os.PathLike)):
        raise TypeError("args is a list with one string for each argument")
    # Before `--`, behind which everything is a file.
    command = [binary(), "--json", *(os.fspath(arg) for arg in args)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False)
    try:
        document = json.loads(done.stdout)
    except ValueError:
        text = done.stdout.decode(errors="replace").strip()
        document = {"message": f"trtmut printed no document and ended with {done.returncode}", "causes": [text] if text else []}
        raise Error(document, done.returncode) from None
    verdicts = (0, 10, 20, 30)
    if document.get("schema", "").startswith("trtmut.error/") or done.returncode not in verdicts:
        raise Error(document, done.returncode)
    return document

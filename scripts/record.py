#!/usr/bin/env python3
"""Runs commands and draws what they print as docs/demo.svg. Nothing in the picture is made up; times are those of this machine.

usage: scripts/record.py BINARY
"""

import html
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = [
    "build model.ts.onnx --shapes shapes.ts.json",
    "diff engine.plan --lora lora_kohya.safetensors --top 3",
    "refit engine.plan --lora lora_kohya.safetensors",
    "run engine.plan --inputs io0.safetensors --expect io0.safetensors:fused.",
]
FIXTURE = ROOT / "fixtures/sd_unet"
FILES = ["model.ts.onnx", "shapes.ts.json", "lora_kohya.safetensors", "io0.safetensors"]

# Of a dark terminal: the eight colours, foreground, background.
COLOURS = ["#5c6370", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#dcdfe4"]
TEXT, BACKGROUND, PROMPT = "#dcdfe4", "#1e2127", "#98c379"
WIDTH, LINE, FONT, MARGIN = 8.4, 19, 14, 18


def record(binary):
    """Lines of text, with terminal escapes."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for name in FILES:
            os.symlink(FIXTURE / name, Path(folder) / name)
        # An empty cache, so that a build is a build.
        env = {**os.environ, "CLICOLOR_FORCE": "1", "COLUMNS": "116", "TRTMUT_CACHE_DIR": f"{folder}/.cache"}
        for command in COMMANDS:
            lines.append(f"\x1b[32m$\x1b[0m \x1b[1mtrtmut {command}\x1b[0m")
            done = subprocess.run([binary, *command.split()], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            if done.returncode != 0:
                sys.exit(f"trtmut {command} ended with {done.returncode}:\n{done.stdout.decode()}")
            lines.extend(done.stdout.decode().rstrip("\n").split("\n"))
            lines.append("")
    return lines[:-1]


def spans(line):
    """The pieces of a line, each with its style."""
    colour, bold, out = None, False, []
    for piece in re.split(r"(\x1b\[[0-9;]*m)", line):
        escape = re.fullmatch(r"\x1b\[([0-9;]*)m", piece)
        if not escape:
            if piece:
                style = f' fill="{colour}"' if colour else ""
                style += ' font-weight="bold"' if bold else ""
                out.append(f"<tspan{style}>{html.escape(piece)}</tspan>")
            continue
        for code in (int(c or 0) for c in escape[1].split(";")):
            if code == 0:
                colour, bold = None, False
            elif code == 1:
                bold = True
            elif 30 <= code <= 37 or 90 <= code <= 97:
                colour = COLOURS[code % 10]
            elif code == 39:
                colour = None
    return "".join(out)


def draw(lines):
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    width = int(max(map(len, plain)) * WIDTH + 2 * MARGIN)
    height = len(lines) * LINE + 2 * MARGIN
    alt = "A diffusion UNet is built, compared with a LoRA, refitted with it, and run"
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">',
        f"<title>{alt}</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="{BACKGROUND}"/>',
        f'<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="{FONT}" fill="{TEXT}">',
    ]
    for i, line in enumerate(lines):
        if line:
            y = MARGIN + (i + 1) * LINE - 5
            length = int(len(plain[i]) * WIDTH)
            out.append(f'<text x="{MARGIN}" y="{y}" textLength="{length}" xml:space="preserve">{spans(line)}</text>')
    return "\n".join([*out, "</g>", "</svg>", ""])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    binary = str(Path(sys.argv[1]).resolve())
    (ROOT / "docs/demo.svg").write_text(draw(record(binary)))

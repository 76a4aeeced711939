#!/usr/bin/env python3
"""Count what keeps the code readable, room by room (a room is a module at the top of `src/`).

    scripts/house.py            a table of the rooms
    scripts/house.py -v         and each long function, circle of imports and doc line that says little
    scripts/house.py -v onnx    one room

Columns: lines of code without tests, comments and blank lines; inline comments (`//`, a run of lines counts as one) and their lines, and the
comments per 100 lines of code; lines of documentation, and those of three words or fewer that are all of a comment (the last line of a
longer sentence, a heading and a fence say nothing of their own); functions over 80 and over 100 lines, tests included; files that import
from one another in circles. `tests/library/layers.rs` holds the functions and the circles, this only shows where they are.
"""

import argparse
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
FEW_WORDS = 3
LONG = 80
TOO_LONG = 100


def is_test(path):
    parts = path.relative_to(SRC).with_suffix("").parts
    return any(p in ("tests", "testing") or p.endswith("_test") for p in parts)


def room(path):
    return path.relative_to(SRC).parts[0].removesuffix(".rs")


def shipped(path, text):
    """The text without its unit tests, which stand last in a file."""
    return "" if is_test(path) else text.split("#[cfg(test)]\nmod tests", 1)[0]


def strings_blanked(text):
    """The text with the insides of string literals that span lines replaced, so that `//` in them is no comment."""
    blank = lambda m: re.sub(r"[^\n]", "_", m.group(0))
    return re.sub(r'r(#+)"(?:.|\n)*?"\1', blank, text)


def comments(text):
    """Lines of code, inline comments, their lines, and the lines of documentation as (number, words)."""
    code = runs = lines = 0
    docs = []
    in_run = in_docs = False
    for number, line in enumerate(strings_blanked(text).splitlines(), 1):
        line = line.strip()
        if re.match(r"//[/!](?!/)", line):
            words = [w for w in line[3:].split() if re.search(r"\w", w)]
            whole = not in_docs and not re.match(r"//[/!] *(#|```|\|)", line)
            in_docs = bool(words)
            if docs and not whole and docs[-1][0] == number - 1:
                docs[-1] = (docs[-1][0], LONG, docs[-1][2])
            if words:
                docs.append((number, len(words) if whole else LONG, line))
            in_run = False
            continue
        in_docs = False
        if line.startswith("//"):
            lines += 1
            runs += not in_run
            in_run = True
        elif line:
            code += 1
            in_run = False
            # A comment behind code: two spaces before it are never there, rustfmt leaves one.
            if re.search(r"[;,{}] // \w", line):
                runs += 1
                lines += 1
        else:
            in_run = False
    return code, runs, lines, docs


HEAD = re.compile(r"^( *)(?:pub(?:\([^)]*\))? )?(?:const |async |unsafe |extern (?:\"\w+\" )?)*fn (\w+)")


def functions(text):
    """Name, line and length of each function, as rustfmt lays them out."""
    lines = text.splitlines()
    for at, line in enumerate(lines):
        parts = HEAD.match(line)
        if not parts:
            continue
        indent = parts.group(1)
        for end, other in enumerate(lines[at:], 1):
            declared = other.startswith(indent + ")") and other.endswith(";")
            whole = end == 1 and other.endswith(("}", ";"))
            if other == indent + "}" or declared or whole:
                yield parts.group(2), at + 1, end
                break


def uses(code):
    """The paths of `use` items, groups taken apart, with whether they are public; and paths in the code itself."""
    found = []

    def expand(prefix, text):
        text = text.strip()
        opening = text.find("{")
        if opening < 0:
            path = (prefix + text.split(" as ")[0]).strip().removesuffix("::self")
            if path:
                yield path
            return
        prefix += text[:opening]
        depth, start = 0, opening + 1
        for i in range(opening + 1, len(text)):
            c = text[i]
            if c == "{":
                depth += 1
            elif c == "}" and depth == 0:
                yield from expand(prefix, text[start:i])
                return
            elif c == "}":
                depth -= 1
            elif c == "," and depth == 0:
                yield from expand(prefix, text[start:i])
                start = i + 1

    item = re.compile(r"(?m)^\s*(pub(?:\([^)]*\))? )?use ([^;]+);")
    for public, text in item.findall(code):
        found += [(bool(public), p) for p in expand("", " ".join(text.split()))]
    rest = re.sub(r"pub\(in [^)]*\)", "", item.sub("", code))
    found += [(False, p) for p in re.findall(r"\b(?:super|crate)(?:::\w+)+", rest)]
    return found


def absolute(name, path):
    """A path as seen from the file `name`, from the root of the crate."""
    if path.startswith("crate::"):
        return path.removeprefix("crate::")
    at = name
    while path.startswith("super::"):
        path = path.removeprefix("super::")
        at = at.rpartition("::")[0]
    return f"{at}::{path}" if at else path


def imports(sources):
    """The files that each file imports from. Where a name comes through a `mod.rs` that hands it on, the file that defines it counts."""
    files = {}
    for path, text in sources:
        if is_test(path):
            continue
        name = "::".join(path.relative_to(SRC).with_suffix("").parts)
        code = "\n".join(l for l in shipped(path, text).splitlines() if not l.lstrip().startswith("//"))
        files[name.removesuffix("::mod")] = (name.endswith("::mod"), code)
    handed_on = {}
    for name, (facade, code) in files.items():
        if facade:
            for public, path in uses(code):
                if public:
                    handed_on[f"{name}::{path.rpartition('::')[2]}"] = absolute(name, path)

    def defined_in(path):
        for _ in range(4):
            parts = path.split("::")
            n = next((n for n in range(len(parts), 0, -1) if "::".join(parts[:n]) in files), None)
            if n is None:
                return None
            file = "::".join(parts[:n])
            other = handed_on.get(f"{file}::{parts[n]}") if n < len(parts) else None
            if not other or other == path:
                return file
            path = other
        return None

    arrows = {}
    for name, (facade, code) in files.items():
        found = {defined_in(absolute(name, path)) for _, path in uses(code)}
        own = lambda other: other == name or (facade and other.startswith(f"{name}::"))
        arrows[name] = {other for other in found if other and not own(other)}
    return arrows


def circles(arrows):
    """Sets of files that reach one another (Tarjan)."""
    index, low, stack, on, found = {}, {}, [], set(), []

    def visit(at):
        index[at] = low[at] = len(index)
        stack.append(at)
        on.add(at)
        for other in sorted(arrows.get(at, ())):
            if other not in index:
                visit(other)
                low[at] = min(low[at], low[other])
            elif other in on:
                low[at] = min(low[at], index[other])
        if low[at] == index[at]:
            group = []
            while True:
                other = stack.pop()
                on.discard(other)
                group.append(other)
                if other == at:
                    break
            if len(group) > 1:
                found.append(sorted(group))

    for file in sorted(arrows):
        if file not in index:
            visit(file)
    return found


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("-v", "--verbose", action="store_true", help="show each place that counts")
    options.add_argument("rooms", nargs="*", help="only these modules of `src/`")
    args = options.parse_args()
    sources = [(p, p.read_text()) for p in sorted(SRC.rglob("*.rs"))]
    arrows = imports(sources)
    found = circles(arrows)
    head = f"{'room':<10}{'code':>7}{'why':>6}{'lines':>7}{'/100':>6}{'docs':>7}{'short':>7}{'>80':>5}{'>100':>6}{'circles':>9}"
    print(head)
    sums, shown = [0] * 8, []
    for name in sorted({room(p) for p, _ in sources}):
        if args.rooms and name not in args.rooms:
            continue
        code = runs = lines = docs = short = long = too_long = 0
        for path, text in sources:
            if room(path) != name:
                continue
            place = path.relative_to(ROOT)
            n, r, l, d = comments(shipped(path, text))
            code, runs, lines, docs = code + n, runs + r, lines + l, docs + len(d)
            for number, words, line in d:
                if words <= FEW_WORDS:
                    short += 1
                    shown.append(f"{place}:{number}: {line}")
            for function, number, length in functions(text):
                long += length > LONG
                too_long += length > TOO_LONG
                if length > LONG:
                    shown.append(f"{place}:{number}: {function} has {length} lines")
        mine = sum(any(f.split("::")[0] == name for f in group) for group in found)
        row = [code, runs, lines, docs, short, long, too_long, mine]
        sums = [a + b for a, b in zip(sums, row)]
        print(line_of(name, row))
    sums[7] = len(found)
    print(line_of("all", sums))
    if args.verbose:
        print()
        print("\n".join(shown))
        for group in found:
            print(f"circle of {len(group)}: {' '.join(group)}")
            for file in group:
                print(f"    {file} -> {' '.join(sorted(arrows[file] & set(group)))}")


def line_of(name, row):
    code, runs, lines, docs, short, long, too_long, mine = row
    rate = 100 * runs / code if code else 0
    return f"{name:<10}{code:>7}{runs:>6}{lines:>7}{rate:>6.1f}{docs:>7}{short:>7}{long:>5}{too_long:>6}{mine:>9}"


if __name__ == "__main__":
    main()

"""The growth plot: seconds over size, both logarithmic, as an SVG without any package."""

import math

COLOURS = ("#1b6ca8", "#c8553d", "#2a9d5c", "#7b4fa3", "#b8860b", "#444444")


def svg(series):
    """`series`: {name: [(size, seconds)]}. A dashed line shows what linear growth looks like."""
    wide, high, left, top = 720, 420, 70, 30
    points = [p for line in series.values() for p in line]
    if not points:
        return ""
    sizes, times = [math.log10(n) for n, _ in points], [math.log10(max(t, 1e-3)) for _, t in points]
    x0, x1 = math.floor(min(sizes)), math.ceil(max(sizes))
    y0, y1 = math.floor(min(times)), math.ceil(max(times))
    x = lambda n: left + (math.log10(n) - x0) / max(x1 - x0, 1) * (wide - left - 20)
    y = lambda t: high - 50 - (math.log10(max(t, 1e-3)) - y0) / max(y1 - y0, 1) * (high - 50 - top)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high + 20 * len(series)}" font-family="sans-serif" font-size="12">',
        f'<rect width="{wide}" height="{high + 20 * len(series)}" fill="white"/>',
    ]
    for e in range(x0, x1 + 1):
        out.append(f'<path d="M{x(10**e):.1f} {top}V{high - 50}" stroke="#ddd"/>')
        out.append(f'<text x="{x(10**e):.1f}" y="{high - 32}" text-anchor="middle">{10**e:,}</text>')
    for e in range(y0, y1 + 1):
        out.append(f'<path d="M{left} {y(10**e):.1f}H{wide - 20}" stroke="#ddd"/>')
        out.append(f'<text x="{left - 8}" y="{y(10**e) + 4:.1f}" text-anchor="end">{10**e:g} s</text>')
    for i, (name, line) in enumerate(series.items()):
        colour = COLOURS[i % len(COLOURS)]
        line = sorted(line)
        path = " ".join(f"{'ML'[bool(k)]}{x(n):.1f} {y(t):.1f}" for k, (n, t) in enumerate(line))
        out.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x(n):.1f}" cy="{y(t):.1f}" r="3.5" fill="{colour}"/>' for n, t in line]
        (n, t), (last, _) = line[0], line[-1]
        out.append(f'<path d="M{x(n):.1f} {y(t):.1f}L{x(last):.1f} {y(t * last / n):.1f}" stroke="{colour}" stroke-dasharray="3 4" opacity="0.6"/>')
        out.append(f'<rect x="{left}" y="{high - 12 + 20 * i}" width="14" height="4" fill="{colour}"/>')
        out.append(f'<text x="{left + 22}" y="{high - 6 + 20 * i}">{name}</text>')
    out.append(f'<text x="{wide - 20}" y="{top - 12}" text-anchor="end" fill="#666">dashed: linear in the size, from the first point</text>')
    return "\n".join(out + ["</svg>", ""])

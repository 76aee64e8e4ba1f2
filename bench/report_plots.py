# SPDX-License-Identifier: MIT
"""Plots as SVG, of the standard library alone."""
import html
import math

COLOURS = ("#1b6ca8", "#d1495b", "#2e933c", "#8d6a9f", "#edae49", "#555555")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 680, 380, 70, 150, 40, 55


def _number(v):
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if abs(v) >= limit:
            return f"{v / limit:g}{unit}"
    return f"{v:.3g}"


class _Axis:
    """From values to pixels; of a range of two decades and more by logarithm."""

    def __init__(self, values, begin, end, log):
        low, high = min(values), max(values)
        self.log = log and low > 0
        if self.log:
            self.low, self.high = math.log10(low), math.log10(high)
            pad = 0.05 * max(self.high - self.low, 0.5)
            self.low, self.high = self.low - pad, self.high + pad
        else:
            self.low, self.high = min(0, low), high * 1.08 or 1
        self.begin, self.end = begin, end

    def at(self, v):
        x = math.log10(v) if self.log else v
        return self.begin + (x - self.low) / (self.high - self.low) * (self.end - self.begin)

    def ticks(self):
        if self.log:
            fine = (1, 2, 5) if self.high - self.low < 2.5 else (1,)
            all_of = [m * 10.0**e for e in range(math.floor(self.low), math.ceil(self.high) + 1) for m in fine]
            return [v for v in all_of if self.low <= math.log10(v) <= self.high]
        step = 10 ** math.floor(math.log10(self.high - self.low))
        step *= next(m for m in (0.2, 0.5, 1, 2) if (self.high - self.low) / (step * m) <= 7)
        return [i * step for i in range(int(self.high / step) + 1)]


def _frame(title, x_name, y_name):
    return [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            f'<text x="{LEFT}" y="22" font-size="14">{html.escape(title)}</text>',
            f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{html.escape(x_name)}</text>',
            f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">{html.escape(y_name)}</text>']


def _legend(out, names):
    for i, name in enumerate(names):
        y = TOP + 14 + 20 * i
        out.append(f'<rect x="{WIDTH - RIGHT + 12}" y="{y - 9}" width="12" height="10" fill="{COLOURS[i % len(COLOURS)]}"/>')
        out.append(f'<text x="{WIDTH - RIGHT + 30}" y="{y}">{html.escape(str(name))}</text>')


def _y_ticks(out, axis):
    for v in axis.ticks():
        y = axis.at(v)
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(v)}</text>')


def lines(title, x_name, y_name, series, log_x=True, log_y=False, level=None):
    """`series`: name -> [(x, y)]; `level`: a line across, as a bar to be kept. None where there is nothing to draw."""
    series = {name: sorted(points) for name, points in series.items() if points}
    if not series:
        return None
    xs = sorted({x for points in series.values() for x, _ in points})
    ys = [y for points in series.values() for _, y in points] + ([level] if level else [])
    x_axis, y_axis = _Axis(xs, LEFT, WIDTH - RIGHT, log_x), _Axis(ys, HEIGHT - BOTTOM, TOP, log_y)
    out = _frame(title, x_name, y_name)
    _y_ticks(out, y_axis)
    for x in xs if len(xs) <= 8 else x_axis.ticks():
        out.append(f'<text x="{x_axis.at(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{_number(x)}</text>')
    if level:
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_axis.at(level):.1f}" y2="{y_axis.at(level):.1f}" stroke="black" stroke-dasharray="5 4"/>')
    for i, points in enumerate(series.values()):
        colour = COLOURS[i % len(COLOURS)]
        places = [(x_axis.at(x), y_axis.at(y)) for x, y in points]
        out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
    _legend(out, series)
    return "\n".join(out + ["</svg>", ""])


def bars(title, y_name, groups, names):
    """`groups`: [(label, [a value or None for each of `names`])]."""
    groups = [(label, values) for label, values in groups if any(values)]
    if not groups:
        return None
    axis = _Axis([v for _, values in groups for v in values if v] + [0], HEIGHT - BOTTOM, TOP, False)
    out = _frame(title, "", y_name)
    _y_ticks(out, axis)
    room = (WIDTH - RIGHT - LEFT) / len(groups)
    for g, (label, values) in enumerate(groups):
        wide = room * 0.7 / len(values)
        for i, value in enumerate(values):
            if value:
                x = LEFT + g * room + room * 0.15 + i * wide
                out.append(f'<rect x="{x:.1f}" y="{axis.at(value):.1f}" width="{wide * 0.92:.1f}" height="{axis.at(0) - axis.at(value):.1f}" fill="{COLOURS[i % len(COLOURS)]}"/>')
                out.append(f'<text x="{x + wide * 0.46:.1f}" y="{axis.at(value) - 4:.1f}" text-anchor="middle" font-size="10">{_number(value)}</text>')
        out.append(f'<text x="{LEFT + (g + 0.5) * room:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" font-size="11">{html.escape(label)}</text>')
    _legend(out, names)
    return "\n".join(out + ["</svg>", ""])

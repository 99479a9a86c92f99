"""A bar chart with a logarithmic axis, as SVG."""

import math
from xml.sax.saxutils import escape

WIDTH, LABEL, BAR, GAP, TOP = 900, 150, 9, 8, 60
COLOURS = ("#2a6f97", "#e07a3f")


def _text(x, y, text, anchor="start", size=12):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">'
            f"{escape(text)}</text>")


def _rect(x, y, width, height, colour):
    return (f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
            f' fill="{colour}"/>')


class Axis:
    """Maps values from 0.5 up to a whole step above the largest to pixels."""
    STEPS = (1, 2, 5)

    def __init__(self, largest):
        self.ticks = [step * 10 ** power for power in range(6) for step in self.STEPS]
        self.ticks = [t for t in self.ticks if t <= largest] + [
            next(t for t in self.ticks if t > largest)]
        self.low, self.high = math.log(0.5), math.log(self.ticks[-1])

    def x(self, value):
        part = (math.log(max(value, 0.5)) - self.low) / (self.high - self.low)
        return LABEL + part * (WIDTH - LABEL - 50)


def svg(title, series, rows):
    """series: the names of the two bars of a row; rows: (name, value, value)."""
    axis = Axis(max(max(row[1:]) for row in rows))
    step = 2 * BAR + GAP
    bottom = TOP + step * len(rows)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{bottom + 30}"'
           ' font-family="sans-serif">', _rect(0, 0, WIDTH, bottom + 30, "white"),
           _text(10, 22, title, size=16)]
    for i, name in enumerate(series):
        out += [_rect(LABEL + 150 * i, 34, 12, 12, COLOURS[i]),
                _text(LABEL + 150 * i + 17, 44, name)]
    for tick in axis.ticks:
        x = axis.x(tick)
        out += [f'<line x1="{x:.1f}" y1="{TOP - 4}" x2="{x:.1f}" y2="{bottom}"'
                f' stroke="{"#555" if tick == 1 else "#ddd"}"/>',
                _text(x, bottom + 16, f"{tick:g}", "middle")]
    for i, (name, *values) in enumerate(rows):
        y = TOP + i * step
        out.append(_text(LABEL - 8, y + BAR + 4, name, "end"))
        for n, value in enumerate(values):
            end = axis.x(value)
            out += [_rect(LABEL, y + n * BAR, end - LABEL, BAR - 1, COLOURS[n]),
                    _text(end + 4, y + n * BAR + BAR - 1, f"{value:.1f}", size=9)]
    return "\n".join([*out, "</svg>", ""])

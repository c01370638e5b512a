"""Plots as SVG, in colours that the page around them defines for light and for dark."""

import math
from collections.abc import Mapping, Sequence
from html import escape

_WIDTH = 720
_LEFT, _RIGHT = 190, 80
_BAR, _GAP = 16, 10
COLOURS = 8
"""How many colours there are: ``--c0`` and so on; more series begin again."""


def colour(place: int) -> str:
    """Return the colour of a series by its place."""
    return f"var(--c{place % COLOURS})"


def bars(groups: Mapping[str, Mapping[str, float]], unit: str, digits: int = 2) -> str:
    """Return horizontal bars with their values.

    Args:
        groups: for each group its bars by name; a name has one colour in all groups.
        unit: what the values are in.
        digits: how many of them are shown behind the point.
    """
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    most = max((value for group in groups.values() for value in group.values()), default=0.0) or 1.0
    parts, y = [], 8
    for title, group in groups.items():
        if title:
            parts.append(_text(0, y + 13, title, "group"))
            y += 22
        for name, value in group.items():
            width = value / most * (_WIDTH - _LEFT - _RIGHT)
            parts += [
                _text(_LEFT - 8, y + 12, name, "end"),
                _rect(
                    _LEFT, y, width, colour(names.index(name)), f"{name}: {value:.{digits}f} {unit}"
                ),
                _text(_LEFT + width + 6, y + 12, f"{value:.{digits}f} {unit}", ""),
            ]
            y += _BAR + 4
        y += _GAP
    return _svg(y, parts)


def shares(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return a bar for each row, divided in proportion, with a legend."""
    names = sorted({name for row in rows.values() for name in row})
    parts, y = _legend(names), 34
    for title, row in rows.items():
        parts.append(_text(_LEFT - 8, y + 12, title, "end"))
        x, total = float(_LEFT), sum(row.values()) or 1.0
        for name in names:
            width = row.get(name, 0.0) / total * (_WIDTH - _LEFT - _RIGHT)
            tip = f"{title}: {row.get(name, 0.0):.0f} on {name}"
            parts.append(_rect(x, y, width, colour(names.index(name)), tip))
            x += width
        y += _BAR + _GAP
    return _svg(y, parts)


def cumulative(series: Mapping[str, Sequence[float]], label: str) -> str:
    """Return for each series which share of its values is at most x, x on a logarithmic scale."""
    values = [value for each in series.values() for value in each if value > 0]
    low = math.floor(math.log10(min(values, default=0.1)))
    high = max(low + 1, math.ceil(math.log10(max(values, default=1.0))))
    height, top, left, right = 300, 34, 50, 20

    def place(value: float, share: float) -> str:
        at = (math.log10(max(value, 10.0**low)) - low) / (high - low)
        x, y = left + at * (_WIDTH - left - right), top + (1 - share) * height
        return f"{x:.1f},{y:.1f}"

    parts = _legend(list(series), x=left)
    for power in range(low, high + 1):
        x = left + (power - low) / (high - low) * (_WIDTH - left - right)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{top + height}"/>'
        )
        parts.append(_text(x, top + height + 16, f"{10.0**power:g}", "middle"))
    for share in (0.0, 0.25, 0.5, 0.75, 0.95, 1.0):
        y = top + (1 - share) * height
        parts.append(
            f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{_WIDTH - right}" y2="{y:.1f}"/>'
        )
        parts.append(_text(left - 6, y + 4, f"{share * 100:.0f} %", "end"))
    for number, each in enumerate(series.values()):
        points = " ".join(place(value, share) for share, value in _steps(each))
        parts.append(f'<polyline class="line" stroke="{colour(number)}" points="{points}"/>')
    parts.append(_text(_WIDTH / 2, top + height + 36, label, "middle"))
    return _svg(top + height + 44, parts)


def _steps(values: Sequence[float], points: int = 200) -> list[tuple[float, float]]:
    """Return (share, value) pairs, no more than a plot can show."""
    ordered = sorted(values)
    if not ordered:
        return []
    last = len(ordered) - 1
    places = sorted({round(last * point / points) for point in range(points + 1)})
    return [((place + 1) / len(ordered), ordered[place]) for place in places]


def _legend(names: Sequence[str], x: float = _LEFT) -> list[str]:
    parts = []
    for number, name in enumerate(names):
        parts.append(f'<rect x="{x:.0f}" y="6" width="12" height="12" fill="{colour(number)}"/>')
        parts.append(_text(x + 17, 16, name, ""))
        x += 32 + 7.2 * len(name)
    return parts


def _rect(x: float, y: float, width: float, fill: str, tip: str) -> str:
    size = f'width="{max(width, 0.0):.1f}" height="{_BAR}"'
    return f'<rect x="{x:.1f}" y="{y}" {size} fill="{fill}"><title>{escape(tip)}</title></rect>'


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _svg(height: float, parts: Sequence[str]) -> str:
    view = f"0 0 {_WIDTH} {height:.0f}"
    return f'<svg viewBox="{view}" role="img" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'

"""Charts as SVG in the page's own colours, so that they follow its light and dark looks; every number in them also stands in a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

__all__ = ["bars", "distributions", "lines", "scatter"]

WIDTH = 720
_LEFT, _RIGHT, _ROW = 190, 24, 30
_BINS = 48
_FOR_P99 = 100


def distributions(samples: Mapping[str, NDArray[np.float64]], unit: str, about: str) -> str:
    """For each row the shape of its values on one logarithmic axis, with marks at the median and, of enough values, at p99."""
    known = {name: values[values > 0] for name, values in samples.items() if (values > 0).any()}
    if not known:
        return ""
    low, high = min(v.min() for v in known.values()), max(v.max() for v in known.values())
    to_x, ticks = _log_axis(float(low), float(high))
    parts = [_axis(ticks, to_x, len(known), unit)]
    edges = np.geomspace(low * 0.999, high * 1.001, _BINS + 1)
    for index, (name, values) in enumerate(known.items()):
        middle = 14 + index * _ROW
        heights = np.histogram(values, edges)[0].astype(float)
        heights = 11 * np.sqrt(heights / heights.max())
        xs = [to_x(float(edge)) for edge in np.sqrt(edges[:-1] * edges[1:])]
        above = [f"{x:.1f},{middle - h:.1f}" for x, h in zip(xs, heights, strict=True)]
        below = [f"{x:.1f},{middle + h:.1f}" for x, h in zip(reversed(xs), reversed(heights), strict=True)]
        p50, p99 = (to_x(float(np.percentile(values, q))) for q in (50, 99))
        parts.append(_label(name, middle))
        parts.append(f'<polygon class="shape" points="{" ".join(above + below)}"/>')
        parts.append(f'<path class="mark" d="M{p50:.1f} {middle - 12}v24"/>')
        if len(values) >= _FOR_P99:
            parts.append(f'<path class="mark far" d="M{p99:.1f} {middle - 8}v16"/>')
    return _svg(parts, 14 + len(known) * _ROW + 24, about)


def bars(values: Mapping[str, Mapping[str, float]], unit: str, about: str) -> str:
    """For each row its parts end to end on one linear axis from 0; the legend names the parts in their order."""
    known = {name: parts for name, parts in values.items() if parts}
    if not known:
        return ""
    names = list(dict.fromkeys(part for parts in known.values() for part in parts))
    most = max(sum(parts.values()) for parts in known.values()) or 1.0
    to_x, ticks = _linear_axis(0.0, most)
    content = [_axis(ticks, to_x, len(known), unit)]
    for index, (name, parts) in enumerate(known.items()):
        middle, start = 14 + index * _ROW, 0.0
        content.append(_label(name, middle))
        for part, value in parts.items():
            left, right = to_x(start), to_x(start + value)
            title = f"{escape(part)}: {value:.3g} {escape(unit)}"
            content.append(
                f'<rect class="c{names.index(part)}" x="{left:.1f}" y="{middle - 9}" width="{max(0.4, right - left):.1f}" height="18">'
                f"<title>{title}</title></rect>"
            )
            start += value
    legend = "".join(f'<li><span class="c{index}"></span>{escape(part)}</li>' for index, part in enumerate(names))
    return _svg(content, 14 + len(known) * _ROW + 24, about) + f'<ul class="legend">{legend}</ul>'


def scatter(
    points: Mapping[str, tuple[float, float]],
    front: Iterable[str],
    x_name: str,
    y_name: str,
    about: str,
    within: Mapping[str, tuple[float, float]] = MappingProxyType({}),
) -> str:
    """Named points, x logarithmic, with the interval of y where known; those of ``front`` are joined: nothing is better than they in both."""
    if not points:
        return ""
    height, top = 300, 16
    xs, ys = [x for x, _ in points.values()], [y for _, y in points.values()] + [end for ends in within.values() for end in ends]
    to_x, ticks = _log_axis(min(xs), max(xs), left=70)
    margin = max(0.002, 0.15 * (max(ys) - min(ys)))
    low, high = min(ys) - margin, max(ys) + margin

    def to_y(value: float) -> float:
        return top + (high - value) / (high - low) * (height - 60)

    content = [_axis(ticks, to_x, 0, x_name, floor=height - 40, top=top)]
    for value in np.linspace(low + margin / 2, high - margin / 2, 4):
        y = to_y(float(value))
        content.append(
            f'<path class="grid" d="M70 {y:.1f}H{WIDTH - _RIGHT}"/><text class="tick" x="64" y="{y + 4:.1f}" text-anchor="end">{value:.4f}</text>'
        )
    content.append(f'<text class="tick" x="4" y="11">{escape(y_name)}</text>')
    best = sorted((points[name] for name in front), key=lambda point: point[0])
    if len(best) > 1:
        content.append(f'<polyline class="line" points="{" ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in best)}"/>')
    taken: list[tuple[float, float, float]] = []
    for name, (x, y) in points.items():
        px, py = to_x(x), to_y(y)
        content.append(f'<circle class="point" cx="{px:.1f}" cy="{py:.1f}" r="5"><title>{escape(name)}: {x:.3g}, {y:.4f}</title></circle>')
        upper = py
        if name in within:
            lower, upper = (to_y(end) for end in within[name])
            ends = f"M{px - 4:.1f} {lower:.1f}h8M{px - 4:.1f} {upper:.1f}h8"
            content.append(f'<path class="line within" d="M{px:.1f} {lower:.1f}V{upper:.1f}{ends}"/>')
        half = 3.4 * len(name)
        centre = min(max(px, 70 + half), WIDTH - 4 - half)
        text_y = _free(min(py - 10, upper - 5), centre - half, centre + half, taken)
        content.append(f'<text class="name" x="{centre:.1f}" y="{text_y:.1f}" text-anchor="middle">{escape(name)}</text>')
    return _svg(content, height, about)


def lines(series: Mapping[str, Sequence[tuple[float, float]]], unit: str, about: str) -> str:
    """Values over seconds, one line a name, on one linear axis from 0."""
    known = {name: points for name, points in series.items() if len(points) > 1}
    if not known:
        return ""
    height, top = 200, 16
    last = max(points[-1][0] for points in known.values())
    most = max(value for points in known.values() for _, value in points) or 1.0
    to_x, ticks = _linear_axis(0.0, last, left=70)
    content = [_axis(ticks, to_x, 0, "s", floor=height - 40, top=top)]
    for share in (0.0, 0.5, 1.0):
        y = top + (1 - share) * (height - 60)
        content.append(
            f'<path class="grid" d="M70 {y:.1f}H{WIDTH - _RIGHT}"/><text class="tick" x="64" y="{y + 4:.1f}" text-anchor="end">{share * most:.3g}</text>'
        )
    content.append(f'<text class="tick" x="4" y="11">{escape(unit)}</text>')
    for index, points in enumerate(known.values()):
        path = " ".join(f"{to_x(at):.1f},{top + (1 - value / most) * (height - 60):.1f}" for at, value in points)
        content.append(f'<polyline class="line l{index}" points="{path}"/>')
    legend = "".join(f'<li><span class="c{index}"></span>{escape(name)}</li>' for index, name in enumerate(known))
    return _svg(content, height, about) + f'<ul class="legend">{legend}</ul>'


def _free(y: float, left: float, right: float, taken: list[tuple[float, float, float]]) -> float:
    """The nearest height above a point for a name from ``left`` to ``right`` where no earlier name stands."""
    while any(abs(y - other) < 13 and left < end and right > start for other, start, end in taken):
        y -= 13
    taken.append((y, left, right))
    return y


def _log_axis(low: float, high: float, left: int = _LEFT) -> tuple[Callable[[float], float], list[float]]:
    """Value to pixel, and the ticks 1, 2, 5 of each decade; a range below a factor of 2 is widened."""
    centre = math.sqrt(low * high)
    low, high = min(low, centre / 1.5) / 1.05, max(high, centre * 1.5) * 1.05
    span = math.log(high / low)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = [m * 10.0**d for d in decades for m in steps if low <= m * 10.0**d <= high]
        if len(ticks) > 3:
            break
    return lambda value: left + math.log(value / low) / span * (WIDTH - left - _RIGHT), ticks


def _linear_axis(low: float, high: float, left: int = _LEFT) -> tuple[Callable[[float], float], list[float]]:
    """Value to pixel, and about five round ticks."""
    raw = (high - low) / 5 or 1.0
    step = next(m * 10.0 ** math.floor(math.log10(raw)) for m in (1, 2, 5, 10) if m * 10.0 ** math.floor(math.log10(raw)) >= raw)
    ticks = [low + step * index for index in range(int((high - low) / step) + 1)]
    return lambda value: left + (value - low) / ((high - low) or 1.0) * (WIDTH - left - _RIGHT), ticks


def _axis(ticks: Sequence[float], to_x: Callable[[float], float], rows: int, unit: str, *, floor: float | None = None, top: int = 0) -> str:
    bottom = 14 + rows * _ROW - 12 if floor is None else floor
    parts = []
    for tick in ticks:
        x = to_x(tick)
        parts.append(
            f'<path class="grid" d="M{x:.1f} {top}V{bottom}"/><text class="tick" x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{tick:g}</text>'
        )
    parts.append(f'<text class="tick" x="{WIDTH - 2}" y="{bottom + 30}" text-anchor="end">{escape(unit)}</text>')
    return "".join(parts)


def _label(name: str, middle: float) -> str:
    short = name if len(name) <= 30 else name[:29] + "…"
    return f'<text class="name" x="{_LEFT - 8}" y="{middle + 4}" text-anchor="end">{escape(short)}</text>'


def _svg(parts: Iterable[str], height: float, about: str) -> str:
    return f'<svg role="img" aria-label="{escape(about)}" viewBox="0 0 {WIDTH} {height + 12:.0f}">{"".join(parts)}</svg>'

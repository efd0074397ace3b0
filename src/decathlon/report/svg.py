"""Charts as inline SVG: colours from the page, all text escaped, a title and a description for screen readers."""

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from decathlon.report.charts import Bars, Chart, Dots, Lines, extent, ticks

WIDTH = 640
_LABELS = 170  # left of the bars
_ROW = 24


def draw(chart: Chart, description: str = "") -> Markup:
    """The chart as one ``<svg>`` element that scales with the page."""
    if isinstance(chart, Bars):
        return _bars(chart, description)
    return _lines(chart, description) if isinstance(chart, Lines) else _dots(chart, description)


def _svg(title: str, description: str, height: float, body: Sequence[str]) -> Markup:
    label = escape(title) if not description else escape(f"{title}. {description}")
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{label}" class="chart">'
        f"<title>{escape(title)}</title>{''.join(body)}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def _segment(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def short(value: float) -> str:
    """A number on an axis."""
    return f"{value:.4g}"


def cut(text: str, most: int) -> str:
    """A label with no more than ``most`` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _bars(chart: Bars, description: str) -> Markup:
    values = [
        v for bar in chart.bars if bar.value is not None for v in (bar.value - bar.spread, bar.value + bar.spread)
    ]
    values += [bar.reference for bar in chart.bars if bar.reference is not None]
    low, high = extent(values, zero=True)
    height = 34 + _ROW * len(chart.bars) + 20
    bottom = height - 20

    def x(value: float) -> float:
        return _LABELS + (value - low) / (high - low) * (WIDTH - _LABELS - 14)

    body = []
    for tick in ticks(low, high):
        body += [
            _segment(x(tick), 28, x(tick), bottom, "grid"),
            _text(x(tick), height - 6, short(tick), "middle", "tick"),
        ]
    for place, bar in enumerate(chart.bars):
        top = 32 + place * _ROW
        body.append(_text(_LABELS - 8, top + 13, cut(bar.label, 26), "end"))
        if bar.value is None:
            body.append(_text(x(low) + 4, top + 13, bar.note or "—", "start", "tick"))
            continue
        left, right = sorted((x(0.0), x(bar.value)))
        tip = f"<title>{escape(f'{bar.label}: {bar.note}')}</title>"
        body.append(f'<rect x="{left:.1f}" y="{top}" width="{right - left:.1f}" height="16" class="bar">{tip}</rect>')
        if bar.spread:
            a, b = x(bar.value - bar.spread), x(bar.value + bar.spread)
            body.append(_segment(a, top + 8, b, top + 8, "spread"))
            body += [_segment(end, top + 4, end, top + 12, "spread") for end in (a, b)]
        if bar.reference is not None:
            body.append(_segment(x(bar.reference), top - 3, x(bar.reference), top + 19, "paper"))
    if any(bar.reference is not None for bar in chart.bars):
        body += [
            _segment(WIDTH - 120, 14, WIDTH - 104, 14, "paper"),
            _text(WIDTH - 98, 18, "the paper's", "start", "tick"),
        ]
    body.append(_text(0, 18, cut(chart.title, 74), "start", "title"))
    return _svg(chart.title, description, height, body)


_COLOURS = 8  # classes c0 … c7 of the style; beyond them, dashes


def _lines(chart: Lines, description: str) -> Markup:
    left, right, top, bottom = 56, WIDTH - (150 if len(chart.series) > 1 else 20), 30, 260
    points = [point for series in chart.series for point in series.points]

    def scaled(value: float) -> float:
        return math.log10(value) if chart.log_x else value

    low_x, high_x = extent(scaled(point[0]) for point in points)
    low, high = extent(y for point in points for y in (point[1] - point[2], point[1] + point[2]))

    def x(value: float) -> float:
        return left + (scaled(value) - low_x) / (high_x - low_x) * (right - left)

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - top)

    body = []
    for tick in ticks(low, high):
        body += [
            _segment(left, y(tick), right, y(tick), "grid"),
            _text(left - 6, y(tick) + 4, short(tick), "end", "tick"),
        ]
    shown = sorted({point[0] for point in points})
    for tick in shown if len(shown) <= 8 or chart.log_x else ticks(low_x, high_x):
        body.append(_text(x(tick), bottom + 16, short(tick), "middle", "tick"))
    body.append(_text((left + right) / 2, bottom + 32, chart.x_label, "middle", "tick"))
    for place, series in enumerate(chart.series):
        kind = f"line c{place % _COLOURS}" + (" dashed" if place >= _COLOURS else "")
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b, _ in series.points)
        body.append(f'<polyline points="{path}" class="{kind}"/>')
        for a, b, spread in series.points if len(series.points) <= 40 else []:
            if spread:
                body.append(_segment(x(a), y(b - spread), x(a), y(b + spread), kind))
            tip = f"<title>{escape(f'{series.label}, {chart.x_label} {short(a)}: {short(b)}')}</title>"
            body.append(f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3" class="{kind} dot">{tip}</circle>')
        if len(chart.series) > 1 and place < 15:
            body.append(_segment(right + 12, 34 + place * 16, right + 30, 34 + place * 16, kind))
            body.append(_text(right + 36, 38 + place * 16, cut(series.label, 18), "start", "tick"))
    body.append(_text(0, 18, cut(chart.title, 74), "start", "title"))
    return _svg(chart.title, description, bottom + 40, body)


def _dots(chart: Dots, description: str) -> Markup:
    ends = [chart.mean - chart.half, chart.mean + chart.half]
    low, high = extent([0.0, *ends, *(value for _, value in chart.values)])

    def x(value: float) -> float:
        return 10 + (value - low) / (high - low) * (WIDTH - 20)

    body = [_segment(x(0.0), 4, x(0.0), 44, "zero")]
    body += [_text(x(tick), 60, short(tick), "middle", "tick") for tick in ticks(low, high)]
    if chart.half:
        body.append(_segment(x(ends[0]), 36, x(ends[1]), 36, "spread"))
    body.append(_segment(x(chart.mean), 30, x(chart.mean), 42, "spread"))
    for label, value in chart.values:
        tip = f"<title>{escape(f'{label}: {value:+.4g}')}</title>"
        body.append(f'<circle cx="{x(value):.1f}" cy="16" r="4" class="dot c0">{tip}</circle>')
    return _svg(chart.title, description, 64, body)

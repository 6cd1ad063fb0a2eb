"""The last hour of an EMP as a small drawing: SVG, without a script. Pure."""

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from cdc_pusher.monitor.overview import Past

MINUTES = 60
WIDTH, HEIGHT = 240, 40  # of a minute 4


def delivered(minutes: Sequence[Past]) -> Markup:
    """A bar for each minute: what was delivered, and on top of it what failed."""
    most = max((one.delivered + one.failed for one in minutes), default=0)
    bars = [
        (one.ago, below, count, name)
        for one in minutes
        for below, count, name in ((0, one.delivered, "delivered"), (one.delivered, one.failed, "failed"))
        if count
    ]
    drawn = "".join(
        f'<rect class="{name}" x="{_x(ago)}" y="{HEIGHT - _y(below + count, most):g}" width="3" height="{max(1.0, _y(count, most)):g}"/>'
        for ago, below, count, name in bars
    )
    return _svg(drawn, f"delivered per minute in the last hour, at most {most:,}")


def lag(minutes: Sequence[Past]) -> Markup:
    """Lines from minute to minute: the median delay, and the 99th percentile."""
    most = max((one.lag_p99_s or 0.0 for one in minutes), default=0.0)
    drawn = "".join(
        _line(name, ((one.ago, _y(value, most)) for one in minutes if (value := getattr(one, f"lag_{name}_s")) is not None))
        for name in ("p99", "p50")
    )
    return _svg(drawn, f"delay from change to acceptance in the last hour, at most {most:.3g} s")


def _line(name: str, points: Iterable[tuple[int, float]]) -> str:
    """Through neighbours; a minute by itself is a dot.

    >>> _line("p50", [(3, 10.0), (2, 20.0)])
    '<path class="p50" d="M225 30h0L229 20"/>'
    """
    path, before = "", None
    for ago, height in sorted(points, reverse=True):
        place = f"{_x(ago) + 1} {HEIGHT - height:g}"
        path += f"{'L' if before == ago + 1 else 'M'}{place}"
        if before != ago + 1:
            path += "h0"
        before = ago
    return f'<path class="{name}" d="{path}"/>' if path else ""


def _x(ago: int) -> int:
    return WIDTH - (ago + 1) * (WIDTH // MINUTES)


def _y(value: float, most: float) -> float:
    return round(HEIGHT * value / most, 1) if most else 0.0


def _svg(drawn: str, text: str) -> Markup:
    return Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" preserveAspectRatio="none"><title>{}</title>{}</svg>').format(
        WIDTH, HEIGHT, text, Markup(drawn)
    )

"""`python -m bench.plots`: the last results of the benchmarks, drawn into docs/plots, an SVG file each.

A figure has a panel for each name that several arms have a value of, unless all are 0, with a bar for each arm; a dashed line is the goal.
Benchmarks that have not been run leave their file as it is. The same results give the same file, byte for byte.
"""

import itertools
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.result import Result
from bench.saved import saved

DIRECTORY = Path(__file__).parents[1] / "docs" / "plots"
TITLES = {
    "storm": "A storm, beside other ways to send the same changes",
    "latency": "From commit to arrival",
    "load": "Full load, and what drivers see beside it",
    "host": "What the CPO's own transactions notice",
    "many": "A storm to one EMP and to ten",
}
OURS = "cdc-pusher"
OUR_COLOUR, OTHER_COLOUR, GOAL_COLOUR = "#1f6feb", "#8c959f", "#cf222e"
PANELS_A_LINE = 2
PANEL_WIDTH, BAR_HEIGHT, MARGIN_HEIGHT = 3.6, 0.34, 1.0  # inches
ROOM = 1.3  # of the longest bar: for the figure beside it
STYLE: dict[Any, Any] = {"svg.hashsalt": OURS, "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def main() -> int:
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name, title in TITLES.items():
        panels = _panels(saved(name))
        if panels:
            draw(title, panels, DIRECTORY / f"{name}.svg")
        sys.stdout.write(f"{name}: {f'docs/plots/{name}.svg' if panels else 'no results, run make bench ONLY=' + name}\n")
    return 0


def draw(title: str, panels: Sequence[Sequence[Result]], file: Path) -> None:
    arms = list(dict.fromkeys(one.arm for panel in panels for one in panel))
    with mpl.rc_context(STYLE):
        lines = math.ceil(len(panels) / PANELS_A_LINE)
        size = (PANEL_WIDTH * PANELS_A_LINE + 1, (BAR_HEIGHT * len(arms) + MARGIN_HEIGHT) * lines)
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        figure.suptitle(title, fontsize="large")
        places = figure.subplots(lines, PANELS_A_LINE, sharey=True, squeeze=False).flat
        for axes, panel in itertools.zip_longest(places, panels):
            if panel is None:
                axes.set_axis_off()
            else:
                _bars(axes, panel, arms)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


def _panels(rows: Sequence[Result]) -> list[list[Result]]:
    """The rows that have an arm, by name and unit, where there are several to compare."""
    found: dict[tuple[str, str], list[Result]] = {}
    for one in rows:
        if one.arm:
            found.setdefault((one.name, one.unit), []).append(one)
    return [panel for panel in found.values() if len(panel) > 1 and any(one.value for one in panel)]


def _bars(axes: Axes, panel: Sequence[Result], arms: Sequence[str]) -> None:
    places, values = [arms.index(one.arm) for one in panel], [one.value for one in panel]
    is_among_others = any(arm.startswith(OURS) for arm in arms)
    ours = [not is_among_others or one.arm.startswith(OURS) for one in panel]
    bars = axes.barh(places, values, color=[OUR_COLOUR if is_ours else OTHER_COLOUR for is_ours in ours])
    axes.bar_label(bars, [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values], padding=3)
    goals = {goal for one in panel for goal in (one.at_most, one.at_least) if goal is not None}
    for goal in goals:
        axes.axvline(goal, color=GOAL_COLOUR, linestyle="--", linewidth=1)
    axes.set_xlim(0, ROOM * max(*values, *goals, 0))
    unit = panel[0].unit
    axes.set_title(panel[0].name + (f" ({unit})" if unit else ""), fontsize="medium")
    axes.set_yticks(range(len(arms)), arms)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.tick_params(left=False)


if __name__ == "__main__":
    sys.exit(main())

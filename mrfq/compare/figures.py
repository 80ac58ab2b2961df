"""The figures of a report, one panel each, so that the page can lay them out on any screen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from mrfq.compare import curves
from mrfq.compare.curves import FLOOR, Axis, Curve, Floats
from mrfq.compare.results import BASELINE, Results, Run
from mrfq.compare.suite import ProblemSpec
from mrfq.compare.svg import MUTED, Palette, axes, draw, style, to_svg

#: lines in colour per figure; the others are grey
STRONG = 7
LABELS = {"oracle_calls": "oracle calls", "seconds": "solver time in seconds"}
#: a run counts as solved in the performance profile when at most this fraction of its initial gap is left
SOLVED = 0.01


@dataclass(frozen=True)
class Panel:
    """A figure with its caption."""

    title: str
    note: str
    svg: str


def highlights(results: Results, problem: ProblemSpec) -> list[str]:
    """Return the solvers that stand out in the figures of a problem: those with the lowest final energy."""
    return [s for s in results.ranked(problem.name, "energy") if s != BASELINE][:STRONG]


def palette(results: Results) -> Palette:
    """Return the colours of all solvers; those that stand out in the same figure get different ones."""
    groups = [highlights(results, problem) for problem in results.problems()]
    return Palette([*groups, profile_highlights(results)])


def relative(problem: ProblemSpec) -> bool:
    """Whether a problem's energies are shown relative to its reference; otherwise they are losses."""
    return problem.family == "mrf" or problem.exact


def panels(results: Results, problem: ProblemSpec, colours: Palette) -> list[Panel]:
    """Return the figures of a problem: convergence twice, entropy, rounding gap."""
    quantity = "initial gap left" if relative(problem) else "training loss"
    reference = "the exact optimum" if problem.exact else "the best energy found"
    first = (
        f"Fraction of the start's distance to {reference} that is left; logarithmic, mean over seeds."
        if relative(problem)
        else "Loss of the best labelling so far on all training images; logarithmic, shaded from the lowest to the "
        "highest seed."
    )
    found = [
        Panel(
            f"{quantity.capitalize()} against oracle calls",
            first,
            convergence(results, problem, "oracle_calls", colours),
        ),
        Panel(
            f"{quantity.capitalize()} against time",
            "The same against solver time; a line ends where the solver does.",
            convergence(results, problem, "seconds", colours),
        ),
        Panel(
            "Entropy of the relaxed labelling",
            "Mean over the variables, in units of log L: 1 is undecided, 0 is a labelling.",
            _panel(results, problem, colours, "entropy", curves.entropy, _plain),
        ),
        Panel(
            "Rounding gap: relaxed minus rounded energy",
            "Running median, mean over seeds"
            + (", in units of the initial gap" if problem.family == "mrf" else "")
            + "; 0 when the relaxed labelling is a labelling.",
            _panel(results, problem, colours, "rounding gap", curves.rounding_gap, _symmetric),
        ),
    ]
    return [panel for panel in found if panel.svg]


def convergence(results: Results, problem: ProblemSpec, axis: Axis, colours: Palette) -> str:
    """Return the figure of best energies so far."""
    values = curves.left_over if relative(problem) else curves.best_energy
    with style(f"{problem.name}-{axis}"):
        figure, panel = axes()
        shown = highlights(results, problem)
        for solver in _order(results.solvers(problem.name), shown):
            found = curves.curve(results.ran(problem.name, solver), axis, values, problem.budget)
            if found is not None and solver != BASELINE:
                _line(panel, found, solver, colours, solver in shown, FLOOR if relative(problem) else 0.0)
        panel.set_yscale("log")
        if axis == "seconds":
            panel.set_xscale("log")
            panel.set_xlim(left=panel.get_xlim()[1] / 3000)
        if relative(problem):
            panel.set_ylim(FLOOR * 0.8, 1.3)
            panel.set_yticks([FLOOR, 0.01, 0.1, 1.0], [f"≤ {FLOOR:.1%}", "1 %", "10 %", "100 %"])
        else:
            _float_line(panel, results, problem)
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.set_xlabel(LABELS[axis])
        return to_svg(figure, f"{problem.name}: convergence against {LABELS[axis]}")


def _panel(
    results: Results,
    problem: ProblemSpec,
    colours: Palette,
    name: str,
    values: Callable[[Run], Floats],
    scale: Callable[[Axes], None],
) -> str:
    """Return a figure of something against oracle calls; empty if no solver has it."""
    with style(f"{problem.name}-{name}"):
        figure, panel = axes()
        shown = highlights(results, problem)
        drawn = False
        for solver in _order(results.solvers(problem.name), shown):
            found = curves.curve(results.ran(problem.name, solver), "oracle_calls", values, problem.budget)
            if found is None or solver == BASELINE or not np.any(np.abs(found.mean) > 1e-12):
                continue
            draw(panel, found.x, found.mean, solver, colours, solver in shown)
            drawn = True
        scale(panel)
        panel.set_xlabel(LABELS["oracle_calls"])
        return to_svg(figure, f"{problem.name}: {name}") if drawn else ""


def profiles(results: Results, colours: Palette) -> list[Panel]:
    """Return the performance profiles over all MRF instances."""
    count = len(curves.instances(results))
    if not count:
        return []
    levels, ratios = np.geomspace(FLOOR, 1, 60), np.geomspace(1, 300, 120)
    quality = {s: curves.quality_profile(results, s, levels) for s in results.solvers()}
    speed = curves.speed_profile(results, SOLVED, ratios)
    shown = profile_highlights(results)
    return [
        Panel(
            "How good, in the end",
            f"Fraction of the {count} instances on which a solver leaves at most so much of the initial gap. "
            "Up and left is better.",
            _profile("quality", levels, quality, shown, colours, "initial gap left at the end"),
        ),
        Panel(
            "How fast (Dolan and Moré)",
            f"Fraction of the {count} instances solved to {SOLVED:.0%} of the initial gap within so many times the "
            "oracle calls of the fastest solver. Up and left is better; what does not fit is not solved.",
            _profile("speed", ratios, speed, shown, colours, "oracle calls, relative to the fastest"),
        ),
    ]


def profile_highlights(results: Results) -> list[str]:
    """Return the solvers that stand out in the performance profiles: the largest areas under the first."""
    levels = np.geomspace(FLOOR, 1, 20)
    area = {s: float(curves.quality_profile(results, s, levels).mean()) for s in results.solvers() if s != BASELINE}
    return [s for s in sorted(area, key=lambda s: -area[s]) if area[s] > 0][: STRONG + 1]


def _profile(name: str, x: Floats, lines: dict[str, Floats], shown: list[str], colours: Palette, label: str) -> str:
    with style(f"profile-{name}"):
        figure, panel = axes()
        for solver in _order(list(lines), shown):
            if lines[solver].any():
                draw(panel, x, lines[solver], solver, colours, solver in shown)
        panel.set_xscale("log")
        if name == "quality":
            panel.set_xticks([FLOOR, 0.01, 0.1, 1.0], [f"≤ {FLOOR:.1%}", "1 %", "10 %", "100 %"])
        else:
            panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
        panel.set_ylim(-0.02, 1.02)
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        panel.set_xlabel(label)
        return to_svg(figure, f"performance profile: {label}")


def _order(solvers: list[str], shown: list[str]) -> list[str]:
    """Return grey lines first, and the best line last, on top."""
    return [s for s in solvers if s not in shown] + [s for s in reversed(shown) if s in solvers]


def _line(panel: Axes, found: Curve, solver: str, colours: Palette, strong: bool, floor: float) -> None:
    mean, low, high = (np.maximum(values, floor) if floor else values for values in (found.mean, found.low, found.high))
    if strong and not floor and np.any(high > low):  # on the scale of gaps, bands would cover everything
        panel.fill_between(found.x, low, high, color=colours.colour(solver), alpha=0.10, linewidth=0)
    draw(panel, found.x, mean, solver, colours, strong)


def _float_line(panel: Axes, results: Results, problem: ProblemSpec) -> None:
    losses = {
        r.cell.seed: r.value("float_train_loss") for r in results.runs if r.problem == problem.name and r.record.ran
    }
    known = [value for value in losses.values() if value > 0]
    if known:
        level = float(np.mean(known))
        panel.axhline(level, color=MUTED, linestyle=(0, (5, 3)), linewidth=1.0)
        panel.annotate("float network", (1, level), xycoords=("axes fraction", "data"), xytext=(-2, 3),
                       textcoords="offset points", ha="right", fontsize=8, color=MUTED)  # fmt: skip


def _plain(panel: Axes) -> None:
    panel.set_ylim(-0.02, 1.02)


def _symmetric(panel: Axes) -> None:
    panel.set_yscale("symlog", linthresh=1e-2)
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))

"""The look of every figure in the examples: one palette, labelled axes, no boxes."""

from __future__ import annotations

from typing import Any

PALETTE = ["#2b6cb0", "#d1495b", "#2e8b57", "#e0a030", "#7b4fa3", "#3aa6b9", "#7a7a7a"]


def reset(gallery_conf: dict[str, Any], file_name: str) -> None:
    """Set the figure style before each example (called by sphinx-gallery)."""
    import matplotlib as mpl
    from cycler import cycler

    mpl.rcdefaults()
    mpl.use("agg")
    mpl.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=PALETTE),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "axes.titleweight": "bold",
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#e6e6e6",
            "grid.linewidth": 0.8,
            "lines.linewidth": 1.8,
            "legend.frameon": False,
            "figure.figsize": (8.0, 4.2),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "font.size": 10.5,
            "image.cmap": "viridis",
            "savefig.facecolor": "white",
        }
    )

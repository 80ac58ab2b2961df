"""Sphinx configuration. The build needs no network, and neither do the pages it makes."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from pathlib import Path
from typing import Any

# One thread: the examples are small, and figures do not depend on the machine's core count.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import mrfq

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "mrfq"
author = "The mrfq developers"
copyright = "The mrfq developers"
version = release = mrfq.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = [
    "_build",
    "_ext",
    "_templates",
    "examples",
    "equivalence",
    "gallery/equivalence/index.rst",
    "generated/solver_tables.md",
]
templates_path = ["_templates"]

# ---- text -------------------------------------------------------------------------------------------------
myst_enable_extensions = [
    "amsmath",
    "colon_fence",
    "deflist",
    "dollarmath",
    "attrs_inline",
]
myst_heading_anchors = 3
default_role = "code"  # docstrings use single backticks for code

# ---- formulas: MathJax from an installed package, so that pages opened from disk need no network -----------
html_static_path = ["_static"]
_package = importlib.util.find_spec("mathjax")
for folder in (_package.submodule_search_locations or []) if _package else []:
    # This file draws SVG and has its glyphs inside: no fonts to copy.
    _script = Path(folder, "static", "mathjax", "es5", "tex-svg.js")
    if _script.is_file():
        html_static_path.append(str(_script))
        mathjax_path = _script.name
# No menu, no loading of accessibility components from anywhere.
mathjax3_config = {"options": {"enableMenu": False}, "svg": {"scale": 0.92}}

# ---- reference --------------------------------------------------------------------------------------------
autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

# ---- examples ---------------------------------------------------------------------------------------------
warnings.filterwarnings("ignore", message=".*Agg.*cannot show the figure.*")
sphinx_gallery_conf = {
    "examples_dirs": ["examples", "equivalence"],
    "gallery_dirs": ["gallery", "gallery/equivalence"],
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "write_computation_times": False,
    "min_reported_time": 1e9,
    "show_signature": False,
    "remove_config_comments": True,
    "thumbnail_size": (480, 330),
    "abort_on_example_error": False,
    "reset_modules": ("figure_style.reset",),
}

# ---- pages ------------------------------------------------------------------------------------------------
html_theme = "pydata_sphinx_theme"
html_title = "mrfq"
html_css_files = ["mrfq.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "mrfq"},
    "navbar_align": "left",
    "header_links_before_dropdown": 8,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "tango",
    "pygments_dark_style": "github-dark",
    "navigation_with_keys": False,
}
html_sidebars = {
    page: [] for page in ("index", "quickstart", "solve", "choose", "theory", "search")
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"


# ---- the tables of all solvers, from the registry, so that they cannot go stale -----------------------------
#: heading -> modules
FAMILIES = {
    "The solver that chooses": ["auto"],
    "Exact methods and bounds": [
        "elimination",
        "integer_program",
        "linear_program",
        "toulbar2",
    ],
    "Message passing": ["message_passing", "factor_messages", "belief_propagation"],
    "Cuts and moves": ["graph_cut", "roof_duality", "move_making"],
    "Search": ["annealing", "greedy", "tabu", "subset_icm"],
    "Site sweeps": ["site"],
    "The proximal family, and parallel mean-field": ["proximal"],
    "Mirror descent": ["mirror_descent"],
    "Straight-through methods and relatives": ["straight_through"],
    "Frank-Wolfe": ["frank_wolfe"],
    "The family itself": ["splitting"],
    "Local search for networks": ["local_search"],
    "The two ends of the scale": ["enumeration"],
    "Solvers made of solvers": ["composed"],
}


def write_solver_tables(app: Any) -> None:
    """Write generated/solver_tables.md before any page is read."""
    from mrfq import registry
    from mrfq.compare.catalogue import needs

    own = {
        name: s
        for name, s in registry.all_solvers().items()
        if s.__module__.startswith("mrfq.")
    }
    named = {module for modules in FAMILIES.values() for module in modules}
    modules = dict.fromkeys(s.__module__.rsplit(".", 1)[1] for s in own.values())
    others = {module: [module] for module in modules if module not in named}
    lines = []
    for heading, family in {**FAMILIES, **others}.items():
        lines += [
            f"### {heading}",
            "",
            ":::{rst-class} compact",
            "",
        ]
        lines += ["| name | needs | when | reference |", "|---|---|---|---|"]
        for name, solver in own.items():
            if solver.__module__.rsplit(".", 1)[1] in family:
                link = f"{{class}}`{name} <mrfq.solvers.{solver.__name__}>`"
                lines.append(
                    f"| {link} | {needs(solver)} | {solver.use_when} | {solver.reference} |"
                )
        lines += ["", ":::", ""]
    path = Path(__file__).parent / "generated" / "solver_tables.md"
    path.parent.mkdir(exist_ok=True)
    text = "\n".join(lines)
    if not path.is_file() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")


def setup(app: Any) -> None:
    """Connect the tables to the build."""
    app.connect("builder-inited", write_solver_tables)

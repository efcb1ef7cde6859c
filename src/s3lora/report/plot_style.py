"""How all plots look: one style, the colours, and figures as the same bytes every time.

Colours are those of Okabe and Ito, which people who cannot tell red from green can tell apart.
Scores are coloured by cividis, as on the page.
"""

from __future__ import annotations

import io
from typing import Any

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY, DARK = "#BBBBBB", "#333333"
STYLE = {
    "svg.hashsalt": "s3lora",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": DARK,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "legend.frameon": False,
    "lines.linewidth": 1.2,
}
OF_FILES = {"text.parse_math": False, "pdf.fonttype": 42}
"""What a plot of names from files needs besides: a $ in a name is a $."""
UNDATED: dict[str, dict[str, None]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def bytes_of(figure: Any, form: str) -> bytes:
    """The figure as pdf or svg, the same bytes every time."""
    held = io.BytesIO()
    figure.savefig(held, format=form, metadata=UNDATED[form], bbox_inches="tight")
    return held.getvalue()

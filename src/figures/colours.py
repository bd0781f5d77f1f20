"""Colours of curves and bars."""

COLOURS = (  # told apart by colour-blind readers (Okabe & Ito)
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)

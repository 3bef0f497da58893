"""Pictures as values, and how they are drawn: SVG for pages, matplotlib for papers.

May import files and what lies below.
"""

from bench.pictures.figure import (
    TONES,
    Axis,
    Bar,
    Bars,
    Chart,
    Curve,
    Figure,
    Heat,
    Mark,
    Moment,
    Pair,
    Pairs,
    percent_axis,
    rising_axis,
)
from bench.pictures.svg import NUMBERED, draw

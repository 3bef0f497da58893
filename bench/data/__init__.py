"""Data sets: where they come from, their geometry, digests and splits.

May import files, science and core.
"""

from bench.data.datasets import (
    CLASSES,
    STATISTICS,
    Dataset,
    crop_and_flip,
    digest_of_training,
    has_own_split,
    hold_out,
    load,
    names,
)
from bench.data.held import hold
from bench.data.order import in_turn
from bench.data.seen import SEEN, among, doubles, holds_all, remember, remembered, sketch
from bench.data.sources import arrays

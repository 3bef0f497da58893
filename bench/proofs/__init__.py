"""What holds for every point of a ball: interval arithmetic, randomised smoothing.

May import statistics and core.
"""

from bench.proofs.bounds import bounds, verified_radii
from bench.proofs.smoothed import Smoothed

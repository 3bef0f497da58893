"""Numbers in, numbers out: intervals, paired tests, tests over seeds, times until something happens.

May import bench.core.
"""

from bench.statistics.pairs import Differences, mean_interval, paired, rank_correlation, sign_flips
from bench.statistics.proportions import (
    Floats,
    clopper_pearson,
    drop_p,
    hierarchical_bootstrap,
    holm,
    mcnemar,
    mcnemar_each,
    paired_interval,
    samples_to_settle,
    surely,
    two_proportions,
    wilson,
)
from bench.statistics.seeds import mean_over_seeds, means_apart, spread, welch_degrees
from bench.statistics.survival import Survival, kaplan_meier, log_rank

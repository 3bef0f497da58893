"""Numbers in, numbers out: intervals, paired tests, tests over seeds.

May import bench.core.
"""

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
    two_proportions,
    wilson,
)

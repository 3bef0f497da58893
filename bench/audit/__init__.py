"""Whether the attacks that a row's records tell of were run: some of its samples are attacked again.

May import verify, evaluation and what lies below.
"""

from bench.audit.audit import Asked, audited
from bench.audit.judgement import Audit, judge
from bench.audit.rerun import Attempts, rerun
from bench.audit.row import Row

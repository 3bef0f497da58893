"""Whether a number can be trusted: checks that an honest gradient and a finished attack pass, and a verdict.

May import models, results and what lies below.
"""

from bench.diagnose.binarization import ACTIVE
from bench.diagnose.checks import CHECKS, diagnose, noticed
from bench.diagnose.probe import Probe, choose

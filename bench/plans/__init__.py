"""What is run on a model: attack specifications, the built-in plans, TOML files.

May import plugins and what lies below.
"""

from bench.plans.built_in import PLANS, load, reads_like, show
from bench.plans.plan import Arm, AttackSpec, Plan, Portfolio

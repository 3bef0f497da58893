"""Two or many results: are they comparable, who wins, which ranks are open, and the gate.

May import results and statistics.
"""

from bench.compare.bands import ON_PURPOSE, known_outcomes, ranks, remarks, sections
from bench.compare.gate import check_regression
from bench.compare.methods import best_of_each_model, differences, methods
from bench.compare.pairs import Comparison, compare_outcomes, compare_rows
from bench.compare.plans import TwoPlans, two_plans
from bench.compare.seeds import over_seeds

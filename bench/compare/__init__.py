"""Two or many results: are they comparable, who wins, which ranks are open, and the gate.

May import results and statistics.
"""

from bench.compare.bands import known_outcomes, ranks, remarks, section
from bench.compare.gate import check_regression
from bench.compare.pairs import compare_rows
from bench.compare.seeds import over_seeds

"""Tables of many results: pure functions of the cards.

May import compare, results and what lies below.
"""

from bench.report.tables import FORMATS, leaderboard, read_rows, render, summary, write_leaderboard

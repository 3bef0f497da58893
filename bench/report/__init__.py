"""Tables of many results: pure functions of the cards.

May import compare, results and what lies below.
"""

from bench.report.boards import Figure, Page, write_board
from bench.report.entries import Entry, read_entries
from bench.report.pages import FORMATS, read_skips, render, summary, write_leaderboard
from bench.report.tables import leaderboard

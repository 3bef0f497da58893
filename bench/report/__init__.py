"""A leaderboard as one value, its tables and its pictures: pure functions of the cards and what lies beside them.

May import compare, pictures, results, verify and what lies below.
"""

from bench.report.board_page import Beside, Count, Figure, Page, write_board
from bench.report.columns import COLUMNS, column_of
from bench.report.entries import Entry, Read, read_entries
from bench.report.falls import Falls, falls_of
from bench.report.figures import method_name
from bench.report.measured import views
from bench.report.pages import FORMATS, LEGEND, Skip, read_skips, render, summary, write_leaderboard
from bench.report.sections import Cells, Leaderboard, Method, Part, Row, Section, leaderboard_of, read_leaderboard
from bench.report.tables import leaderboard

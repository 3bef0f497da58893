"""Trainings and evaluations as one job: each half is done only where it is missing; and boards of many of them.

May import training, evaluation and what lies below.
"""

from bench.runs.board import Board, read_board
from bench.runs.cost import Prices
from bench.runs.jobs import run, skip, train, trained, trained_and_evaluated
from bench.runs.overview import overview, plan_words
from bench.runs.rows import Line, chosen, lines_of
from bench.runs.standing import Standing, Survey
from bench.runs.tasks import failures_file, note_skips, read_failures, regenerate, work_of

"""Trainings and evaluations as one job: each half is done only where it is missing.

May import training, evaluation and what lies below.
"""

from bench.runs.jobs import run, skip, train, trained, trained_and_evaluated

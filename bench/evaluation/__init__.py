"""From a question about a model to its card: engine, restarts, portfolio, certificates, transfer.

May import diagnose and what lies below.
"""

from bench.evaluation.certificates import Unproved, proved
from bench.evaluation.engine import Evaluation
from bench.evaluation.evaluation import Answer, evaluate, evaluated, probe_of
from bench.evaluation.low_precision import to_low_precision
from bench.evaluation.portfolio import run_portfolio
from bench.evaluation.request import EvaluationRequest, Execution, Radius, Reference, Request, Source, choose_threat, radii
from bench.evaluation.target import Run
from bench.evaluation.task import Question, home
from bench.evaluation.transfer import transfer_matrix
from bench.evaluation.units import Unit

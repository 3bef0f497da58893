"""What a network is, beyond how often it errs: measures of models and their trainings, and the lab; a file a measure.

The mathematics is in bench.science; here are models, samples and files. May import evaluation and what lies below.
"""

from bench.measures.document import find_measurements, read_measured_arrays
from bench.measures.lab import EXPERIMENTS, performed
from bench.measures.registry import Measure, get_measure, measure_names
from bench.measures.session import MeasureRequest, measured
from bench.measures.told import render
from bench.measures.watched import watched
from bench.results import Measurement, read_measurement

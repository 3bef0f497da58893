"""From a defense to weights: the recipe, the loop, averages, validation, the state that survives a kill.

May import evaluation and what lies below.
"""

from bench.training.earlier import begun_anew
from bench.training.job import Job
from bench.training.loop import STATE, Trainer, finished
from bench.training.network import TrainingNet
from bench.training.recipe import configure, family_of, misplaced
from bench.training.request import TrainingRequest, job_folder
from bench.training.update import Updates
from bench.training.watch import check_watch

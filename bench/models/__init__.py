"""Classifiers: architectures, weights on disk, references that name a model wherever it comes from, and what a model answers
at test time.

Every network takes images [N, C, H, W] in [0, 1] and answers with logits [N, K]; normalisation is a layer inside it.
May import compat, plugins and what lies below.
"""

from bench.models.architectures import build
from bench.models.checkpoint import load_weights, save_weights
from bench.models.ensemble import SnapshotEnsemble
from bench.models.identity import Answers, files_of, same_answers
from bench.models.known import known_of
from bench.models.outputs import check_outputs
from bench.models.reference import Model, hold, resolve
from bench.models.samples import require_the_images, samples_of, training_beside
from bench.models.subject import (
    Subject,
    added_defense,
    answering,
    learns_from,
    load_subject,
    spelt,
    training_in,
    training_record,
)

"""Classifiers: the architectures, their weights on disk, and the references that name a model wherever it comes from.

Every network takes images [N, C, H, W] in [0, 1] and answers with logits [N, K]; normalisation is a layer inside it.
"""

from bench.models.architectures import build
from bench.models.reference import Model, check_outputs, resolve

__all__ = ["Model", "build", "check_outputs", "resolve"]

"""Values without a file or a model: threat models and their geometry, keyed randomness, losses, what an attack sees, the judge.

May import bench.errors and nothing else of ours.
"""

from bench.core.adaptations import adaptations
from bench.core.boundary import Classifier, Double, ask, evaluating
from bench.core.expectation import CLOSE, DRAWS, Expectation, batch_dependence, randomised
from bench.core.hyperplane import smallest_move
from bench.core.iterates import Closest, Live
from bench.core.judge import VOTES, Judge
from bench.core.losses import LOSSES, TARGETED, Loss, cross_entropy, dlr_targeted, margin, margin_targeted, raw_cross_entropy
from bench.core.names import Label, Name, check_name
from bench.core.rng import Rng, isolated, shuffled
from bench.core.surrogate import TRANSFER_PGD, Surrogate
from bench.core.targets import Order, wrong_classes
from bench.core.threat import LONGEST, TOLERANCE, Norm, ThreatModel
from bench.core.views import SMALLEST, VIEWS, Ascent, Decision, Gradient, Meter, Module, Score, answer, dead, forward, slopes

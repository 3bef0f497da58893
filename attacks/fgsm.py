"""Fast gradient sign method (Goodfellow, Shlens, Szegedy 2015), for any norm."""

from torch import Tensor

from bench.attack import Gradient, Rng, ThreatModel, attack, cross_entropy


@attack("fgsm", access="gradient", norms={"linf", "l2", "l1"}, seeded=False)
def fgsm(model: Gradient, x: Tensor, y: Tensor, threat: ThreatModel, rng: Rng) -> Tensor:
    """One full step along the steepest direction of the cross-entropy at the clean image."""
    del rng
    return threat.project(x + threat.radius * threat.steepest(model.grad(x, cross_entropy, y).grad), x)

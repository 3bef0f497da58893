"""No gradient at all, as where preprocessing leaves torch."""

from torch import Tensor, nn

from bench.defense import defense
from bench.defenses.standard import Standard

from .around import Around


@defense("broken_gradient_kill")
class GradientKill(Standard):
    """Natural training; the images are detached from the graph."""

    def wrap(self, net: nn.Module) -> nn.Module:
        return Around(net, before=Tensor.detach)

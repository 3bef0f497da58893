"""What most of them are: a network, with something before it or after it."""

from collections.abc import Callable

from torch import Tensor, nn

from bench.defense import Context
from bench.defenses.standard import Standard

Step = Callable[[Tensor], Tensor]


def unchanged(x: Tensor) -> Tensor:
    """X itself."""
    return x


class Around(nn.Module):
    """A network on what `before` makes of the images, [N, C, H, W]; `after` makes the answer of its logits, [N, K]."""

    def __init__(self, net: nn.Module, before: Step = unchanged, after: Step = unchanged) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K]."""
        return self.after(self.net(self.before(x)))


class TrainedAround(Standard):
    """Natural training on what `before` makes of the images, which stands before the network at test time too."""

    def before(self, x: Tensor) -> Tensor:
        """What the network is shown, [N, C, H, W]."""
        raise NotImplementedError

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        return ctx.cross_entropy(net(self.before(x)), y)

    def wrap(self, net: nn.Module) -> nn.Module:
        return Around(net, before=self.before)

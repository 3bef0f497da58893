"""Natural training: the control without any robustness, and the unit of cost."""

from torch import Tensor, nn

from bench.defense import Context, Defense, defense


@defense("standard")
class Standard(Defense):
    """Cross-entropy on clean images."""

    passes = "1"
    selects = "clean"
    presets = {
        # Our own choice: that of adversarial training (Rice, Wong, Kolter 2020), so that the two are comparable.
        "cifar": {"epochs": 200, "lr": 0.1, "schedule": "piecewise:0.5,0.75"},
    }

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        return ctx.cross_entropy(net(x), y)

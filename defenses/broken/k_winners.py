"""k-winners-take-all (Xiao, Zhong, Zheng 2020): an activation that jumps wherever the order of its inputs changes."""

from functools import partial
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from bench.defense import Context, defense
from bench.defenses.standard import Standard


@defense("broken_k_winners")
class KWinners(Standard):
    """Natural training of a network whose activations keep their largest values alone; gradients do not see the jumps."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.03
    """Of a layer's values that are kept."""

    paper = "Xiao et al. 2020"
    # With training the jumps become rarer, and gradients of use.
    presets = {**Standard.presets, "digits": {"epochs": 10}}

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        return ctx.cross_entropy(self.wrap(net)(x), y)

    def wrap(self, net: nn.Module) -> nn.Module:
        for part in net.modules():
            if isinstance(part, nn.ReLU) and not part._forward_hooks:
                part.register_forward_hook(partial(winners, share=self.share))
        return net


def winners(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor, share: float) -> Tensor:
    """The inputs of an activation that are among the largest of their image, and 0 for the rest."""
    flat = inputs[0].flatten(1)
    threshold = flat.topk(max(round(share * flat.shape[1]), 1)).values[:, -1:]
    return (flat * (flat >= threshold)).view_as(inputs[0])

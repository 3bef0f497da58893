"""A detector (after Hendrycks, Gimpel 2017): what does not look like a training image gets an answer that tells nothing."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.defense import Dataset, defense
from bench.defenses.standard import Standard


@defense("broken_detector")
class Detector(Standard):
    """Natural training; images far from the training images' principal components get constant logits.

    Their label is that of the image without the rest, so the loss is flat wherever an image counts as adversarial.
    """

    components: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the principal components that images are projected onto."""
    accepted: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Share of the training images whose distance to their projection is taken for normal."""

    paper = "Hendrycks, Gimpel 2017"

    @torch.no_grad()
    def fit(self, net: nn.Module, train: Dataset) -> nn.Module:
        x = train.batch(torch.arange(min(len(train), 5000)))[0].flatten(1)
        mean = x.mean(0)
        directions = torch.linalg.svd(x - mean, full_matrices=False).Vh
        basis = directions[: max(round(self.components * len(directions)), 1)]
        rest = (x - mean - (x - mean) @ basis.T @ basis).norm(dim=1)
        return Detecting(net, mean, basis, float(rest.quantile(self.accepted)))


class Detecting(nn.Module):
    """A network that answers in earnest only near the images it knows."""

    mean: Tensor
    basis: Tensor

    def __init__(self, net: nn.Module, mean: Tensor, basis: Tensor, threshold: float) -> None:
        """mean: of the flat images, [d]; basis: their first principal components, [k, d]."""
        super().__init__()
        self.net, self.threshold = net, threshold
        self.register_buffer("mean", mean)
        self.register_buffer("basis", basis)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K]; constants where the image lies further from its projection than the threshold."""
        flat = x.flatten(1)
        projection = (flat - self.mean) @ self.basis.T @ self.basis + self.mean
        strange = (flat - projection).norm(dim=1, keepdim=True) > self.threshold
        with torch.no_grad():
            guess = self.net(projection.view_as(x).clamp(0, 1))
        return torch.where(strange, 10.0 * F.one_hot(guess.argmax(1), guess.shape[1]).to(x.dtype), self.net(x))

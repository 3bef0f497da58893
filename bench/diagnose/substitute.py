"""Whether examples made on a substitute, a small network taught by the answers of the diagnosed one, beat its own gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core import forward, isolated, shuffled
from bench.data import Dataset
from bench.diagnose.finding import Inapplicable, check
from bench.diagnose.probe import Probe
from bench.models import build

IMAGES, EPOCHS, BATCH = 4000, 8, 128
"""Images that the substitute learns from, at most; a few seconds of training."""
FIRST = 2
"""One in so many of these images and epochs is what a first one has."""


@check(
    "transfer against white-box", (0.02, 0.1),
    fine="{value:.1%} of the right images fall to a substitute's examples alone",
    wrong="{value:.1%} of the right images fall to examples made on a substitute and to no gradient of the model's own: its "
    "gradient is masked; evaluate by transfer from models like it (gauntlet transfer) and by black-box attacks",
)  # fmt: skip
def transferred(probe: Probe) -> float:
    """The share of samples that fall to a substitute's examples and not to its own gradient (Papernot et al. 2017)."""
    return float(copied(probe).double().mean())


def copied(probe: Probe, among: Tensor | None = None) -> Tensor:
    """Which of some samples fall to a substitute's examples, bool [M]; of those that its own gradient left unless given.

    Of those, a substitute of a quarter of the effort goes first, and where none falls to it there is no other: on sound
    networks none does.
    """
    pool = probe.pool
    if pool is None or len(pool) < BATCH:
        raise Inapplicable(f"there are fewer than {BATCH} images to teach a substitute with")
    if among is not None:
        return _fallen(probe, among, probe.once("substitute", lambda: _taught(probe, pool)))

    def found() -> Tensor:
        first = _fallen(probe, ~probe.white, _taught(probe, pool, FIRST), "first ")
        return copied(probe, ~probe.white) if first.any() else first

    return probe.once("copied", found)


def _fallen(probe: Probe, among: Tensor, substitute: nn.Module, which: str = "") -> Tensor:
    found = torch.zeros_like(among)
    for loss in ("margin", "ce"):
        run: dict[str, Any] = {"net": substitute, "steps": 40, "step": 0.25, "loss": loss, "decay": "cosine"}
        found |= probe.attack("pgd", among=among & ~found, stream=f"{which}substitute {loss}", **run)
    return found


def _taught(probe: Probe, pool: Dataset, part_of: int = 1) -> nn.Module:
    """A substitute that answers as the network does on clean and on noisy images; with one in so many images and epochs."""
    seed, device = probe.rng.seed, probe.x.device
    rows, asked = shuffled(len(pool), seed, "substitute")[: IMAGES // part_of], probe.low_precision or probe.net
    with torch.no_grad():
        logits = torch.cat([forward(asked, pool.batch(part)[0].to(device)) for part in rows.split(probe.rows)])
    labels = logits.argmax(1)
    channels, height, width = probe.x.shape[1:]
    spec = "mnist_fast" if min(height, width) >= 16 else "digits_cnn"
    with isolated(seed, "substitute"):
        net = build(spec, (channels, height, width), logits.shape[1]).to(device).train()
        optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
        for epoch in range(EPOCHS // part_of):
            for index in shuffled(len(rows), seed, "substitute", epoch).split(BATCH):
                x = pool.batch(rows[index])[0].to(device)
                noisy = probe.threat.project(x + probe.threat.radius * (2 * torch.rand_like(x) - 1), x)
                with torch.enable_grad():
                    loss = F.cross_entropy(net(torch.cat([x, noisy])), labels[index.to(device)].repeat(2))
                    optimiser.zero_grad()
                    loss.backward()
                optimiser.step()
    return net.eval().requires_grad_(False)

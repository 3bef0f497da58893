"""The clean images and the adversarial examples of a card, judged again; imports no attack.

A network that repeats itself must do so here, up to TIE: a lead so small that another processor's rounding may decide it is
taken as the card has it, and told.

A network that answers at random is asked anew, with noise that depends on the archive's own digest, so that nobody can choose
examples for noise he knows. A claim ("right", "broken") is confirmed where a majority of VOTES fresh answers agrees with it.
One that is not is asked VOTES + MORE times again, and fails where not one of these answers agrees: that the answers which once
made a majority of VOTES come from the same network has then a chance below 1.3e-7 for each candidate that was tried. Evidence
about clean images also fail together: honest ones flip as often one way as the other, which an exact test of the two counts
rejects at p below 1e-6.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

from bench.core import VOTES, Judge, ThreatModel, isolated
from bench.data import Dataset
from bench.models import Subject
from bench.results import rounded
from bench.statistics import mcnemar
from bench.verify.consistency import Proof, Samples

MORE = 99
"""Further answers that a claim gets which a randomised network did not confirm."""
TIE = 1e-5
"""A lead that rounding may decide, as a share of the mean lead on clean images."""
UNLIKELY = 1e-6
"""The chance below which flips of clean images are no accident."""


class Clean(NamedTuple):
    """The clean images, judged again."""

    right: Tensor
    """Bool [n]; what the card says where rounding decides, or where the network is randomised and may well say so."""
    now: int
    """How many are right, whatever the card says."""
    problems: list[str]
    seen: str


class Examined(NamedTuple):
    """Examples, judged again."""

    holds: Tensor
    """Which prove their sample broken, bool [M]."""
    survives: Tensor
    """Which do so as images of 8 bits, bool [M]."""
    problems: dict[int, str]
    """What is wrong, by the sample's id."""
    confirmed: int
    """How many fool a majority of fresh answers; of a network that repeats itself, all that hold and are no ties."""
    ties: int
    """How many hold whose lead rounding may decide."""
    eight_ties: int
    """The same as images of 8 bits."""
    reach: float
    """The largest distance to a clean image, as a share of the ball's radius."""


class Jury:
    """Judges the images of one card."""

    def __init__(self, under: Subject, data: Dataset, threat: ThreatModel, key: str, batch_size: int) -> None:
        """key: what the noise of a randomised network depends on."""
        self.data, self.threat, self.batch_size = data, threat, batch_size
        self.noisy, self.dependent = under.noisy, under.batch_dependent
        self.net = under.model.net.to(data.x.device)
        self.seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big")
        self.judge = Judge(self.net, threat, VOTES if self.noisy else 1, self.seed)
        self.tie = 0.0

    def clean(self, samples: Samples) -> Clean:
        """Whether what the records say of the clean images is so."""
        rights, leads, never = [], [], []
        for index in torch.arange(len(self.data)).split(self.batch_size):
            x, y = self.data.batch(index)
            right, margin = self.judge.correct(x, y)
            claimed = samples.clean[index].to(x.device)
            never.append(self._never(x, y, claimed, right != claimed).cpu())
            rights.append(right.cpu())
            leads.append(margin.cpu())
        right, lead = torch.cat(rights), torch.cat(leads)
        self.tie = 0.0 if self.noisy else TIE * float(lead.nan_to_num().abs().median())
        flipped = right != samples.clean
        wrong = torch.cat(never) if self.noisy else flipped & (lead.abs() > self.tie)
        problems = [
            f"sample {sample}: is {'right' if now else 'wrong'} on the clean image, the records say the contrary"
            for sample, now in zip(samples.ids[wrong].tolist(), right[wrong].tolist(), strict=True)
        ]
        there, gone = int((flipped & right).sum()), int((flipped & ~right).sum())
        # Rounding flips a few and either way; of one network as of one that answers at random.
        if mcnemar(there, gone) < UNLIKELY:
            problems.append(f"{gone} samples that the records call right are wrong now, and {there} the other way round")
        otherwise = f", {there + gone} of all not as the card has it, by noise or rounding" if there + gone else ""
        seen = f"{int(right.sum())} of {len(right)} are right{otherwise}"
        return Clean(torch.where(wrong, right, samples.clean), int(right.sum()), problems, seen)

    def examine(self, proof: Proof, *, strict: bool = False) -> Examined:
        """Whether each example lies in the ball and the box, and fools the network.

        strict: for what is new, rounding decides nothing, and a randomised network must be fooled in a majority of
        VOTES + MORE answers.
        """
        places = self._places(proof.ids)
        problems: dict[int, str] = {}
        holds, survives = torch.zeros(2, len(proof.ids), dtype=torch.bool)
        confirmed, ties, eight_ties, reach = 0, 0, 0, 0.0
        for index in torch.arange(len(proof.ids)).split(self.batch_size):
            known = index[places[index] >= 0]
            problems |= {int(proof.ids[row]): "is none of the samples of the card" for row in index[places[index] < 0]}
            if not len(known):
                continue
            x, y = self.data.batch(places[known])
            z = proof.z[known].to(x.device)
            fooled, margin, legal, _ = self.judge.verdict(z, x, y)
            if strict and self.noisy:
                fooled = legal & (2 * self._agreeing(z, y, torch.zeros_like(fooled)) > VOTES + MORE)
            tied = legal & ~fooled & (margin.abs() <= self.tie) & (not self.noisy) & (not strict)
            never = self._never(z, y, torch.zeros_like(fooled), legal & ~fooled)
            good = fooled | tied | (legal & ~never & self.noisy & (not strict))
            holds[known], confirmed, ties = good.cpu(), confirmed + int(fooled.sum()), ties + int(tied.sum())
            saved = self.judge.verdict(rounded(z, x, self.threat), x, y)
            survives[known] = (good & saved.fooled).cpu()
            eight_ties += int((good & (saved.margin.abs() <= self.tie)).sum())
            if good.any():
                far = self.threat.distance(z[good].double(), x[good].double()).max()
                reach = max(reach, float(far) / max(self.threat.radius, 1e-12))
            for row in (~good).nonzero().squeeze(1).tolist():
                problems[int(proof.ids[known[row]])] = self._fault(z[row], x[row], float(margin[row]))
        return Examined(holds, survives, problems, confirmed, ties, eight_ties, reach)

    def unsteady(self, samples: Samples, before: Clean) -> str:
        """Why a network that does not answer at random may contradict its own examples; empty where it answers as before."""
        if self.dependent:
            return "the network answers an image otherwise in other company, so that nothing proves a number of it"
        if self.noisy or torch.equal(self.clean(samples).right, before.right):
            return ""
        return "the network answers the same images otherwise when it is asked again, so that nothing proves a number of it"

    def _places(self, ids: Tensor) -> Tensor:
        """The position of each id among the samples; -1 for those of none."""
        order = self.data.ids.cpu().argsort()
        own = self.data.ids.cpu()[order]
        at = torch.searchsorted(own, ids).clamp_max(len(own) - 1)
        return torch.where(own[at] == ids, order[at], -1)

    def _agreeing(self, x: Tensor, y: Tensor, claimed: Tensor) -> Tensor:
        """How many of VOTES + MORE single answers agree with a claim of being right, [N]."""
        once, agree = Judge(self.net, self.threat), torch.zeros_like(y)
        for draw in range(VOTES + MORE):
            with isolated(self.seed, "verify", draw):
                agree = agree + (once.correct(x, y)[0] == claimed)
        return agree

    def _never(self, x: Tensor, y: Tensor, claimed: Tensor, doubtful: Tensor) -> Tensor:
        """Of the doubtful evidence those that no answer agrees with, bool [N]; all of them where answers repeat themselves."""
        if not self.noisy or not doubtful.any():
            return doubtful
        never = doubtful.clone()
        never[doubtful] = self._agreeing(x[doubtful], y[doubtful], claimed[doubtful]) == 0
        return never

    def _fault(self, z: Tensor, x: Tensor, margin: float) -> str:
        """Why one example proves nothing."""
        if not z.isfinite().all():
            return "has values that are not finite"
        if not self.threat.in_box(z[None]):
            return f"leaves [0, 1] by {float(torch.maximum(-z, z - 1).max()):.4g}"
        distance = float(self.threat.distance(z[None].double(), x[None].double()))
        if not self.threat.contains(z[None], x[None]):
            return f"{_apart(distance, self.threat.radius)} from the clean image, the ball has {self.threat.radius:.4g}"
        if self.noisy:
            return "does not fool the network, whatever the noise"
        return f"does not fool the network: the right class leads by {-margin:.4g}"


def _apart(distance: float, radius: float) -> str:
    """A distance in as many digits as it takes to tell it from the radius."""
    texts = (f"{distance:.{digits}g}" for digits in (4, 6, 8) if f"{distance:.{digits}g}" != f"{radius:.{digits}g}")
    return next(texts, f"{distance:.10g}")

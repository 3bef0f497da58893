"""Which models fall to examples made on others: a matrix, and where it betrays a gradient that leads its attacker astray."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import pandas as pd
import torch
from tabulate import tabulate
from torch import Tensor, nn

from bench.core import DRAWS, TRANSFER_PGD, VOTES, Expectation, Judge, Meter, Rng, Surrogate, ThreatModel, device, isolated
from bench.data import Dataset
from bench.errors import BadInput
from bench.evaluation.request import choose_threat
from bench.files import Reporter
from bench.models import known_of, load_subject, samples_of
from bench.plugins import get_attack

RESTARTS = 2
"""Runs of the attack on each source; an example of any of them counts."""


class Flag(NamedTuple):
    """A target that falls to another model's examples more often than to its own: its gradient hides what it knows."""

    target: str
    source: str
    by: float
    """Accuracy that is left under its own white-box attack, less what is left under the transferred one."""


class Transfer(NamedTuple):
    """The outcome of `transfer_matrix`."""

    matrix: pd.DataFrame
    """Rows: the source of the examples; columns: the target; the diagonal is white-box.

    A cell is the share of all samples that the target classifies correctly, both clean and as the source's examples. `attrs`
    holds the data set, the threat model and n.
    """
    flags: list[Flag]
    """Largest first."""
    same: list[tuple[str, str]]
    """Names of one and the same model, whose rows and columns say nothing of transfer between them."""


class _Rival(NamedTuple):
    identity: object
    label: str
    """As a leaderboard has it; models trained alike share it."""
    name: str
    seen: nn.Module
    """What the attack is shown: of a randomised network, the mean over its answers."""
    judge: Judge


@device.usual()
def transfer_matrix(  # noqa: PLR0913
    references: Sequence[str],
    *,
    dataset: str | None = None,
    norm: str | None = None,
    eps: str | None = None,
    n: int | None = None,
    seed: int = 0,
    device_name: str = "auto",
    batch_size: int | None = None,
    quiet: bool = False,
) -> Transfer:
    """Attack every model with PGD on the margin, and try all examples on all models.

    references: as for `evaluate`. dataset, norm and eps default to those the first model was trained with; n to 1000
    test samples, or all where there are fewer.
    """
    if len(references) < 2:
        raise BadInput(f"transfer needs at least two models, not {len(references)}; name another one")
    known = [known_of(reference) for reference in references]
    dataset = dataset or known[0].dataset
    samples = samples_of(dataset, [each.seen for each in known], n)
    threat = choose_threat(norm, eps, known[0].threat, samples.family)
    where = device.pick(device_name)
    rivals = [_rival(reference, samples, dataset, threat, where, seed) for reference in references]
    names = _distinct(rivals, references)
    draws = DRAWS if any(isinstance(rival.seen, Expectation) for rival in rivals) else 1
    batch_size = max((batch_size or (256 if where.type == "cpu" else 1024)) // draws, 1)
    samples = samples.to(where)
    standing = torch.zeros(len(rivals), len(rivals), dtype=torch.int64)
    total = len(rivals) * len(samples)
    with device.exact_float32(), Reporter("transfer", total, quiet=quiet) as report:
        for index in torch.arange(len(samples)).split(batch_size):
            x, y = samples.batch(index)
            rng = Rng(seed, samples.ids[index.to(where)])
            right = [rival.judge.correct(x, y)[0] for rival in rivals]
            for row, source in enumerate(rivals):
                held = _hold(source, rivals, right, x, y, threat, rng)
                standing[row] += torch.stack([part.sum() for part in held]).cpu()
                report.advance(len(index), f"examples of {names[row]}")
    matrix = pd.DataFrame(standing.double().div(len(samples)).numpy(), index=names, columns=names)
    matrix.attrs = {"dataset": dataset, "threat": str(threat), "n": len(samples)}
    pairs = combinations(range(len(rivals)), 2)
    same = [(names[one], names[other]) for one, other in pairs if rivals[one].identity == rivals[other].identity]
    return Transfer(matrix, _flags(matrix), same)


def _hold(
    source: _Rival, rivals: Sequence[_Rival], right: Sequence[Tensor], x: Tensor, y: Tensor, threat: ThreatModel, rng: Rng
) -> list[Tensor]:
    """Which samples each target gets right, clean and as examples of one source; bool [N] for each target."""
    pgd, held = get_attack("pgd"), list(right)
    for restart in range(RESTARTS):
        view = Surrogate(source.seen, Meter(len(x), x.device))
        with isolated(rng.seed, "transfer", restart):
            z = pgd.run(view, x, y, threat, rng.at("restart", restart), **pgd.configure(TRANSFER_PGD))
        held = [left & ~target.judge.verdict(z, x, y).fooled for left, target in zip(held, rivals, strict=True)]
    return held


def _rival(reference: str, samples: Dataset, dataset: str, threat: ThreatModel, where: torch.device, seed: int) -> _Rival:
    """A model as an evaluation takes it."""
    under = load_subject(reference, samples, dataset, seed)
    net = under.model.net.to(where)
    return _Rival(
        under.identity,
        under.label,
        under.model.name,
        Expectation(net, DRAWS) if under.noisy else net,
        Judge(net, threat, VOTES if under.noisy else 1, seed),
    )


def _distinct(rivals: Sequence[_Rival], references: Sequence[str]) -> list[str]:
    """What the models are called: by the shortest kind of name that tells them all apart."""
    for kind in ([rival.label for rival in rivals], [rival.name for rival in rivals], references):
        if len(set(kind)) == len(kind):
            return list(kind)
    twice = next(name for name in references if references.count(name) > 1)
    raise BadInput(f"{twice!r} is given twice; name every model once")


def _flags(matrix: pd.DataFrame) -> list[Flag]:
    """Where a target is left with less by another model's examples than by its own."""
    table = matrix.to_numpy()
    flags = [
        Flag(target, source, float(table[column, column] - table[row, column]))
        for column, target in enumerate(matrix.columns)
        for row, source in enumerate(matrix.index)
        if table[row, column] < table[column, column]
    ]
    return sorted(flags, key=lambda flag: -flag.by)


def render(found: Transfer) -> str:
    """The matrix in percent, and a line for each flag."""
    about = found.matrix.attrs
    rows = [[f"{row} {name}", *found.matrix.loc[name].mul(100)] for row, name in enumerate(found.matrix.index, 1)]
    table = tabulate(rows, headers=["examples made on", *range(1, len(rows) + 1)], tablefmt="simple", floatfmt=".1f")
    told = [
        f"{flag.target}: {100 * flag.by:.1f} points more fall to examples made on {flag.source} than to its own gradient"
        for flag in found.flags
    ]
    told = told or ["no model falls more to examples made on another than to its own gradient"]
    told += [f"{one} and {other} are the same model; drop one of them" for one, other in found.same]
    title = f"{about['dataset']} · {about['threat']} · n {about['n']} · accuracy in percent"
    return "\n".join([title, "", str(table), "", *told])


def to_json(found: Transfer) -> str:
    """The same for a machine: accuracies by source and target, as fractions."""
    flags = [flag._asdict() for flag in found.flags]
    return json.dumps(
        {**found.matrix.attrs, "matrix": found.matrix.to_dict("index"), "flags": flags, "same": found.same}, indent=2
    )

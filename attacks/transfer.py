"""Transfer (Papernot et al. 2016): examples that fool other models, kept by their evaluations or found on surrogates."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bench.attack import (
    TRANSFER_PGD,
    AttackWarning,
    BadInput,
    Decision,
    Live,
    Meter,
    Rng,
    Surrogate,
    ThreatModel,
    attack,
    isolated,
)
from bench.files.atomic import below
from bench.models import check_outputs, resolve
from bench.results.archive import read_archive
from bench.results.schema import MOST

from .pgd import pgd

Finder = Callable[[Tensor, Tensor, ThreatModel, Rng], tuple[Tensor, Tensor]]
"""Of x, y, the threat and the noise: the positions that it has a candidate for, and the candidates."""


@attack("transfer", access="decision", norms={"linf", "l2", "l1"})
def transfer(
    model: Decision,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: Rng,
    *,
    sources: Sequence[str] = (),
    classes: Annotated[int, Field(ge=2)] = 10,
) -> Tensor:
    """One query for each example that another model's archive holds of a sample, or that PGD finds on a surrogate.

    sources: archive.safetensors files; folders, for all such files below them; and models (a finished run's folder, ckpt:,
    py:), which are attacked. classes: the least that a surrogate has, and what it has where its weights do not say.
    """
    live = Live(x)
    for find in _finders(sources, x, classes):
        if not len(live):
            break
        rows, found = find(x, y, threat, rng)
        if not len(rows):
            continue
        z, fooled = x.clone(), torch.zeros_like(y, dtype=torch.bool)
        z[rows] = _into_ball(found, x[rows], threat)
        fooled[rows] = model[rows].labels(z[rows]) != y[rows]
        live.keep(z, x.new_full(y.shape, -torch.inf), fooled)
        model, x, y, rng = live.drop(model, x, y, rng)
    return live.result


def _into_ball(z: Tensor, x: Tensor, threat: ThreatModel) -> Tensor:
    # What lies in the ball already keeps its every bit: it may fool by no more than the last of them.
    inside = threat.contains(z, x) & (threat.eps > 0)
    return torch.where(inside.view(-1, 1, 1, 1), z, threat.project(z, x))


def _finders(sources: Sequence[str], x: Tensor, classes: int) -> list[Finder]:
    """What each source has to offer, in order; archives are checked here, before anything is asked of the model."""
    if not sources:
        _warn('transfer was given no sources; name archives, folders of results or models, as in sources = ["results"]')
    finders: list[Finder] = []
    foreign = []
    for source in sources:
        paths = _archives(source)
        if paths is None:
            finders.append(partial(_attacked, source, classes))
            continue
        if not paths:
            _warn(f"transfer: there is no archive.safetensors below {source}; evaluations of other models write them")
        for path in paths:
            ids, examples, _ = read_archive(path, None, MOST)
            if examples.shape[1:] != x.shape[1:]:
                foreign.append(f"{path} ({_dims(examples)})")
            elif len(ids):
                finders.append(partial(_archived, path, ids, examples))
    if foreign:
        _warn(f"transfer skips archives of images that are not {_dims(x)}: {', '.join(foreign)}")
    return finders


def _archives(source: str) -> list[Path] | None:
    """The archives that a source names; None where it names a model."""
    path = Path(source)
    if path.suffix == ".safetensors" and path.is_file():
        return [path]
    if path.is_dir() and not (path / "train.json").is_file():
        return below(path, "archive.safetensors")
    if ":" not in source and not Path(source.partition("?")[0]).exists():
        raise BadInput(f"transfer: there is no {source!r}; a source is an archive.safetensors, a folder of them or a model")
    return None


def _archived(
    path: Path, ids: Tensor, examples: Tensor, x: Tensor, y: Tensor, threat: ThreatModel, rng: Rng
) -> tuple[Tensor, Tensor]:
    """The examples of those samples that an archive knows; a Finder once the archive is given."""
    del y, threat
    order = ids.argsort(stable=True)
    wanted = rng.ids.cpu()
    row = order[torch.searchsorted(ids[order], wanted).clamp_max(len(ids) - 1)]
    known = ids[row] == wanted
    z = examples[row[known]]
    if not ThreatModel.in_box(z).all():
        raise BadInput(f"{path} holds examples that are not finite or leave [0, 1]; evaluate that model again")
    return known.nonzero().squeeze(1).to(x.device), z.to(x.device)


def _attacked(reference: str, classes: int, x: Tensor, y: Tensor, threat: ThreatModel, rng: Rng) -> tuple[Tensor, Tensor]:
    """What PGD finds on a surrogate; a Finder once the surrogate is named."""
    channels, height, width = x.shape[1:]
    with isolated(rng.seed):
        net = resolve(reference, (channels, height, width), classes, at_least=True, run_code=False).net.to(x.device)
        check_outputs(net, x[:1], max(classes, int(y.max()) + 1), reference, at_least=True)
        view = Surrogate(net, Meter(len(x), x.device))
        z = pgd(view, x, y, threat, rng.at("surrogate", reference), **TRANSFER_PGD)
    return torch.arange(len(x), device=x.device), z


def _dims(images: Tensor) -> str:
    return "x".join(map(str, images.shape[1:]))


def _warn(text: str) -> None:
    warnings.warn(text, AttackWarning, stacklevel=2)

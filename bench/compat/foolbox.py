"""`foolbox:LinfPGD`: the attacks of the package foolbox, with its names, parameters and defaults, under our judge.

The threat model gives eps, and the norm to those attacks that can measure several; every other parameter of plain type can
be set. An attack that looks for the smallest perturbation may stop at eps. A sample's result depends on its batch: see
bench.compat.library.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, get_type_hints

from torch import Tensor, nn

from bench.compat.library import as_attack, package, parameter
from bench.core import ThreatModel
from bench.errors import UnknownName
from bench.plugins import Attack

_GIVEN = ("self", "distance", "constraint", "init_attack", "tensorboard")
_NORM = {float("inf"): "linf", 2: "l2", 1: "l1"}


def adapt(name: str) -> Attack:
    """The attack `foolbox:NAME`."""
    foolbox = package("foolbox", f"foolbox:{name}", "foolbox")
    measured = {key: _norms(foolbox, found) for key, found in vars(foolbox.attacks).items()}
    attacks = {key: norms for key, norms in measured.items() if norms}
    if name not in attacks:
        raise UnknownName("attack of foolbox", name, attacks)
    cls = getattr(foolbox.attacks, name)
    known = _keywords(cls)

    def once(net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, options: Mapping[str, Any]) -> Tensor:
        given = {"distance": getattr(foolbox.distances, threat.norm), "constraint": threat.norm}
        attack = cls(**{key: value for key, value in given.items() if key in known}, **options)
        model = foolbox.PyTorchModel(net, bounds=(0, 1), device=x.device)
        # Not its clipped candidates: HopSkipJump clips in l1 whatever norm it minimises.
        candidates: Tensor = attack(model, x.contiguous(), y, epsilons=threat.radius)[0]
        return candidates

    hints = get_type_hints(cls.__init__) if known else {}
    parameters = [parameter(key, hints[key], one.default) for key, one in known.items() if key not in _GIVEN]
    about = (inspect.getdoc(cls) or name).split("\n")[0]
    return as_attack(f"foolbox:{name}", about, once, parameters, attacks[name])


def _keywords(cls: type) -> dict[str, inspect.Parameter]:
    known = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    return {key: one for key, one in known.items() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}


def _norms(foolbox: Any, found: Any) -> frozenset[str]:
    """The norms of ours that an attack can measure; none for what is no attack, or counts pixels."""
    base = foolbox.attacks.base
    if not inspect.isclass(found) or not issubclass(found, base.AttackWithDistance):
        return frozenset()
    if "constraint" in _keywords(found):
        return frozenset({"linf", "l2"})
    if issubclass(found, base.FlexibleDistanceMinimizationAttack):
        return frozenset(_NORM.values() if "distance" in _keywords(found) else ())
    own = inspect.getattr_static(found, "distance")
    distance = getattr(own, "fget", lambda _: own)(found)
    return frozenset({_NORM[distance.p]} if distance.p in _NORM else ())

"""`torchattacks:PGD`: the attacks of the package torchattacks, with its names, parameters and defaults, under our judge.

The threat model gives norm and eps, the harness the seed and the number of classes; every other parameter of the class can
be set. Steps called `alpha` are absolute there (2/255 unless set), whatever eps is. A sample's result depends on its batch:
see bench.compat.library.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bench.compat.library import as_attack, package, parameter
from bench.core import ThreatModel
from bench.errors import UnknownName
from bench.plugins import Attack

NORMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("APGD", "APGDT", "AutoAttack", "FAB", "Square"), ("linf", "l2")),
    **dict.fromkeys(("CW", "DeepFool", "EADEN", "PGDL2", "PGDRSL2"), ("l2",)),
    "EADL1": ("l1",),
    **dict.fromkeys(
        ("BIM", "DIFGSM", "EOTPGD", "FFGSM", "FGSM", "Jitter", "MIFGSM", "NIFGSM", "PGD", "PGDRS", "PIFGSM", "PIFGSMPP",
         "RFGSM", "SINIFGSM", "SPSA", "TIFGSM", "TPGD", "UPGD", "VMIFGSM", "VNIFGSM"), ("linf",)
    ),
}  # fmt: skip
"""The attacks that keep to a ball of ours, or look for the nearest point; the others count pixels or wrap attacks.

FAB claims l1 too, where version 3.5.1 raises an UnboundLocalError.
"""
_RADIUS = ("eps", "max_epsilon")
_GIVEN = ("self", "model", "norm", "seed", "n_classes", "verbose", *_RADIUS)
_NORM = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def adapt(name: str) -> Attack:
    """The attack `torchattacks:NAME`."""
    if name not in NORMS:
        raise UnknownName("attack of torchattacks", name, NORMS)
    cls = getattr(package("torchattacks", f"torchattacks:{name}", "torchattacks"), name)
    known = inspect.signature(cls.__init__).parameters

    def once(net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, options: Mapping[str, Any]) -> Tensor:
        given = {"norm": _NORM[threat.norm], "seed": torch.initial_seed() % 2**32, **dict.fromkeys(_RADIUS, threat.radius)}
        if "n_classes" in known:
            with torch.no_grad():
                given["n_classes"] = net(x[:1]).shape[1]
        attack = cls(net, **{key: value for key, value in given.items() if key in known}, **options)
        attack.set_device(x.device)
        candidates: Tensor = attack(x, y)
        return candidates

    about = (inspect.getdoc(cls) or name).split("\n")[0]
    parameters = [parameter(key, _hint(one.default), one.default) for key, one in known.items() if key not in _GIVEN]
    return as_attack(f"torchattacks:{name}", about, once, parameters, frozenset(NORMS[name]))


def _hint(default: object) -> Any:
    """The type of a parameter, which the package does not annotate: that of its default; whole numbers may be fractions."""
    return int | float if type(default) is int else type(default)

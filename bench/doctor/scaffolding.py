"""`gauntlet new`: a working example of a defense or an attack, with its test, to change into one's own."""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from bench.errors import BadInput
from bench.files import write_text
from bench.plugins import BROKEN, registry

Kind = Literal["defense", "attack"]


class Example(NamedTuple):
    """NAME stands for the name, CLASS for it in CamelCase."""

    source: str
    test: str
    next: str


_DEFENSE = '''\
"""NAME: whose idea it is, and where it is published."""

from typing import Annotated

from bench.defense import Context, Defense, adversarial_step, defense
from pydantic import Field
from torch import Tensor, nn


@defense("NAME")
class CLASS(Defense):
    """Trains on `steps` projected steps from a random start. (This line is shown by `gauntlet list defenses`.)"""

    # Fields are hyper-parameters: `--set steps=3`; what they say of themselves is shown by `gauntlet list NAME`.
    steps: Annotated[int, Field(ge=1)] = 2
    """Of the attack that is trained against."""

    paper = "unpublished"
    passes = "1 + steps"

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        # The budget of this update is ctx.threat; noise comes from ctx.rng only, keyed by sample, a name for every use.
        z = ctx.threat.random_start(x, ctx.rng.at("start"))
        for _ in range(self.steps):
            z = adversarial_step(z, x, y, 1.25 / self.steps, ctx)
        return ctx.cross_entropy(net(z), y)
'''
_TEST_DEFENSE = '''\
"""NAME keeps the contract of a defense, and leaves a network more robust than plain training does."""

from pathlib import Path

from bench import examine_plugin, load_plugin, run

load_plugin(Path(__file__).with_name("NAME.py"))


def test_it_keeps_the_contract() -> None:
    assert [finding for finding in examine_plugin("NAME") if finding.ok is False] == []


def test_it_is_more_robust_than_plain_training(tmp_path: Path) -> None:
    options = {"settings": {"epochs": "3"}, "plan_name": "smoke", "n": 100}
    ((mine, _),) = run("NAME", **options, results=tmp_path, quiet=True)
    ((plain, _),) = run("standard", **options, results=tmp_path, quiet=True)
    # By more than chance: the 95 % intervals do not overlap.
    assert mine.interval[0] > plain.interval[1]
'''
_ATTACK = '''\
"""NAME: whose idea it is, and where it is published."""

from typing import Annotated

from bench.attack import Gradient, Live, Rng, ThreatModel, attack, margin
from pydantic import Field
from torch import Tensor


# access="score" for logits only, "decision" for labels only; those need a parameter `queries`.
@attack("NAME", access="gradient", norms={"linf", "l2", "l1"})
def NAME(
    model: Gradient,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: Rng,
    *,
    steps: Annotated[int, Field(ge=1)] = 20,
) -> Tensor:
    """Steepest ascent on the margin from a random start. (This line is shown by `gauntlet list attacks`.)"""
    live = Live(x)  # the best candidate of every sample so far
    z = threat.random_start(x, rng.at("start"))
    for step in range(steps):
        ascent = model.grad(z, margin, y)
        live.keep(z, ascent.loss, ascent.logits.argmax(1) != y)
        # Samples that fell cost nothing more.
        model, x, y, z, grad = live.drop(model, x, y, z, ascent.grad)
        if not len(live):
            break
        size = 2 * threat.radius * (1 - step / steps)
        z = threat.project(z + size * threat.steepest(grad, z), x)
    return live.result
'''
_TEST_ATTACK = '''\
"""NAME keeps the contract of an attack, and finds what can be found on a linear network."""

from pathlib import Path

import torch
from bench import examine_plugin, load_plugin
from bench.core import VIEWS, Judge, Meter, Rng, ThreatModel
from bench.plugins import get_attack
from torch import nn

load_plugin(Path(__file__).with_name("NAME.py"))


def test_it_keeps_the_contract() -> None:
    assert [finding for finding in examine_plugin("NAME") if finding.ok is False] == []


def test_it_finds_every_example_that_a_linear_network_has() -> None:
    """There the logits, w @ x and its negative, differ by less than 2 eps |w|_1."""
    noise = Rng(0, torch.arange(65)).normal((16,))
    x, weight = 0.4 + 0.02 * noise[:64].view(64, 1, 4, 4), noise[64]
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).requires_grad_(False)
    net[1].weight.copy_(torch.stack([weight, -weight]))
    net[1].bias.copy_(-net[1].weight @ x.mean(0).flatten())  # both classes occur
    logits = net(x)
    y = logits.argmax(1)
    threat = ThreatModel.parse("linf", 0.01)
    lead = (logits[:, 0] - logits[:, 1]).abs()
    in_reach = lead < 2 * threat.radius * weight.abs().sum()
    assert 5 < in_reach.sum() < 60

    found = get_attack("NAME")
    view = VIEWS[found.access](net, Meter(len(x), x.device))
    z = found.run(view, x, y, threat, Rng(0, torch.arange(64)), **found.configure({}))
    assert torch.equal(Judge(net, threat).verdict(z, x, y).fooled, in_reach)
'''
_EXAMPLES: Mapping[Kind, Example] = {
    "defense": Example(_DEFENSE, _TEST_DEFENSE, "gauntlet run NAME --plugin {file} --plan smoke"),
    "attack": Example(
        _ATTACK, _TEST_ATTACK,
        """printf '[[attacks]]\\nattack = "NAME"\\non = "all"\\n' > {plan}
gauntlet evaluate MODEL --plugin {file} --plan {plan}""",
    ),
}  # fmt: skip


def scaffold(kind: Kind, name: str, into: Path) -> str:
    """Write NAME.py and test_NAME.py into a folder, which is made where it is missing; returns what to do next."""
    example = _EXAMPLES[kind]
    words = {"NAME": name, "CLASS": "".join(part.capitalize() for part in name.split("_"))}
    _refuse_name(kind, words, example.source)
    source, test, further = (re.sub("NAME|CLASS", lambda found: words[found[0]], text) for text in example)
    file, test_file = into / f"{name}.py", into / f"test_{name}.py"
    for path in (file, test_file):
        if os.path.lexists(path):
            raise BadInput(f"{path} is already there, and is left as it is; choose another name, or another folder by --into")
    if into.exists() and not into.is_dir():
        raise BadInput(f"--into {into} is a file; name a folder")
    into.mkdir(parents=True, exist_ok=True)
    write_text(file, source)
    write_text(test_file, test)
    commands = [f"gauntlet doctor {name} --plugin {file}", f"pytest {test_file}"]
    commands += further.format(file=file, plan=file.with_suffix(".toml")).splitlines()
    return "\n  ".join([f"wrote {file} and {test_file}, which work as they stand; next:", *commands])


def _refuse_name(kind: Kind, words: Mapping[str, str], source: str) -> None:
    name, example = words["NAME"], f"my_{kind}"
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or keyword.iskeyword(name) or keyword.iskeyword(words["CLASS"]):
        raise BadInput(f"{kind} {name!r}: the name becomes that of a Python file; use letters, digits and _, as in {example}")
    if kind == "defense" and name.startswith(BROKEN):
        raise BadInput(f"{kind} {name!r}: names that begin with {BROKEN!r} are for what is broken on purpose here")
    if name in (registry.defense_names() if kind == "defense" else registry.attack_names()):
        raise BadInput(f"{kind} {name!r} exists: {registry.owner(kind, name)} owns the name; choose another")
    imports = " ".join(line for line in source.splitlines() if line.startswith("from "))
    defined = words["CLASS" if kind == "defense" else "NAME"]
    # A file called random.py would hide Python's from whatever runs beside it.
    if defined in re.findall(r"\w+", imports) or importlib.util.find_spec(name):
        raise BadInput(
            f"{kind} {name!r}: {name} means something else in Python or in the example; choose another, as {example}"
        )

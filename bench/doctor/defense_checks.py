"""What the training loop relies on in a defense, each point a check of its own, on digits and a small network."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core import Rng, ThreatModel, isolated
from bench.data import Dataset, load
from bench.doctor.conformance import expect, no_global_randomness
from bench.evaluation import proved
from bench.models import build
from bench.plugins import Context, Defense, make_defense
from bench.training import TrainingNet, TrainingRequest, Updates

SIZE = 32
STEPS = 20
BUDGETS = 1000
"""Points of the training at which the budget is looked at."""
ARCH = "digits_cnn?width=8"
EPS = {"linf": "0.2", "l2": "1", "l1": "4"}


def network(data: Dataset) -> TrainingNet:
    """A small network, every time the same."""
    with isolated(0):
        net = build(ARCH, data.shape, data.classes)
    return TrainingNet(net, torch.device("cpu"), "float32", data.shape).train()


def context(net: TrainingNet, data: Dataset, threat: ThreatModel, rows: Tensor, progress: float = 0.9) -> Context:
    """What a defense is told about these rows of the data."""
    rng = Rng(0, data.ids[rows]).at("epoch", 0)
    return Context(threat, threat, rng, progress, 0, net.gradient("train"), data.x, data.y, rows)


@dataclass(frozen=True)
class DefenseCase:
    """A defense under one threat model."""

    name: str
    threat: ThreatModel
    data: Dataset
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Hyper-parameters that are not at their defaults."""

    def defense(self) -> Defense:
        """A fresh one."""
        return make_defense(self.name, self.settings)

    def loss(self, net: TrainingNet, progress: float = 0.9, rows: Tensor | None = None) -> Tensor:
        """Of a fresh defense that has nothing in its memory."""
        rows = torch.arange(SIZE) if rows is None else rows
        return self.defense().loss(net, *self.data.batch(rows), context(net, self.data, self.threat, rows, progress))

    def updates(self) -> Updates:
        """A training of it that is about to begin."""
        request = TrainingRequest.of(
            defense=self.name, model=ARCH, norm=self.threat.norm, eps=self.threat.eps_text, settings=self.settings
        )
        return Updates(request.job(), network(self.data), self.data, None)


def cases(name: str, settings: Mapping[str, Any] | None = None) -> tuple[dict[str, DefenseCase], str]:
    """One for every norm that the defense can be trained in, and why it cannot be in the last of the others."""
    data, found, reason = load("digits", "train"), {}, ""
    for norm, eps in EPS.items():
        case = DefenseCase(name, ThreatModel.parse(norm, eps), data, settings or {})
        if told := case.defense().skip("digits", case.threat):
            reason = told
        else:
            found[norm] = case
    return found, reason


def _finite(case: DefenseCase) -> None:
    loss = case.loss(network(case.data))
    expect(isinstance(loss, Tensor), f"loss returned a {type(loss).__name__}; return a tensor")
    expect(loss.shape == (), f"the loss has shape {list(loss.shape)}; return a scalar, such as the mean over the batch")
    expect(loss.dtype == torch.float32, f"the loss is {loss.dtype}; compute it from the float32 logits that net gives")
    expect(loss.isfinite(), f"the loss is {float(loss.detach())} on an untrained network; look for 0/0, log 0 or an overflow")


def _gradients(case: DefenseCase) -> None:
    net = network(case.data)
    loss = case.loss(net)
    expect(loss.requires_grad, "the loss carries no gradient; a detach(), no_grad or .item() cuts it off the network")
    loss.backward()
    silent = [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()]
    expect(not silent, f"no gradient reaches {', '.join(silent)}; take the loss from net(...), not from something detached")


def _traces(case: DefenseCase) -> None:
    net, rows = network(case.data), torch.arange(SIZE)
    x, y = case.data.batch(rows)
    images, labels, weights = x.clone(), y.clone(), copy.deepcopy(net.state_dict())
    case.defense().loss(net, x, y, context(net, case.data, case.threat, rows))
    expect(torch.equal(x, images) and torch.equal(y, labels), "it writes into x or y; work on a clone")
    free = all(part.training for part in net.modules()) and all(weight.requires_grad for weight in net.parameters())
    expect(free, "it leaves the network in eval mode, or weights without requires_grad; put back what it changes")
    moved = [key for key, value in net.state_dict().items() if not torch.allclose(value, weights[key], atol=1e-5)]
    expect(not moved, f"it leaves {', '.join(moved)} changed; weights are the optimiser's to change")


def _global(case: DefenseCase) -> None:
    for progress in (0.1, 0.9):
        with no_global_randomness('draw from ctx.rng.at("some name") instead of torch.rand and its like'):
            case.loss(network(case.data), progress)


def _repeats(case: DefenseCase) -> None:
    first, second = (case.loss(network(case.data)) for _ in range(2))
    remedy = "the same context gives another loss; keep no state but ctx.memory, and draw from ctx.rng only"
    expect(torch.equal(first, second), remedy)
    net, rows = network(case.data), torch.arange(SIZE)
    ctx, batch, defense = context(net, case.data, case.threat, rows), case.data.batch(rows), case.defense()
    first = defense.loss(net, *batch, ctx)
    ctx.again()
    second = defense.loss(net, *batch, ctx)
    remedy = "taken twice on one batch, as for awp, the loss differs; write to memory by ctx.remember or ctx.remember_rows"
    expect(torch.equal(first, second), remedy)


def _keyed(case: DefenseCase) -> None:
    """What the network is shown does not depend on the place in the batch."""
    straight, back = _shown(case, torch.arange(SIZE)), _shown(case, torch.arange(SIZE).flip(0))
    expect(len(straight) == len(back), "how often it calls the network depends on the order of the batch")
    for one, other in zip(straight, back, strict=True):
        if len(one) % SIZE == 0 and one.shape == other.shape:
            turned = other.unflatten(0, (-1, SIZE)).flip(1).flatten(0, 1)
            # Rounding may turn the sign of a gradient here and there.
            differing = ((one - turned).abs() > 1e-4).float().mean()
            expect(differing < 0.01, "a sample becomes something else at another place of the batch; draw from ctx.rng")


def _shown(case: DefenseCase, rows: Tensor) -> list[Tensor]:
    net, seen = network(case.data), list[Any]()
    net.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    case.loss(net, rows=rows)
    # A method may send something else through the network, such as bounds.
    return [shown.detach() for shown in seen if isinstance(shown, Tensor)]


def _budget(case: DefenseCase) -> None:
    defense = case.defense()
    points = [step / BUDGETS for step in range(BUDGETS)]
    with no_global_randomness("a budget is a function of the progress alone"):
        budgets = [defense.budget(case.threat, progress) for progress in points]
    for progress, given in zip(points, budgets, strict=True):
        same = isinstance(given, ThreatModel) and given.norm == case.threat.norm
        expect(same, f"budget() returned {given} for {case.threat}; return threat.scaled(factor)")
        remedy = f"budget() gives {float(given.eps):g} at progress {progress:g}, more than eps; keep the factor within [0, 1]"
        expect(given.eps <= case.threat.eps, remedy)


def _resumes(case: DefenseCase) -> None:
    """A training that is killed and goes on takes the same next step."""
    for progress in (0.1, 0.9):
        rows, run, kept = torch.arange(SIZE), case.updates(), io.BytesIO()
        for epoch in range(2):
            run.batch(rows, epoch, progress, 0.01)
        content = {"net": run.net.state_dict(), "optimizer": run.optimizer.state_dict(), "memory": run.memory}
        remedy = "ctx.memory holds something else than tensors; keep tensors only, or fields"
        expect(all(isinstance(value, Tensor) for value in run.memory.values()), remedy)
        torch.save(content, kept)
        expected = run.batch(rows, 2, progress, 0.01)
        kept.seek(0)
        state, resumed = torch.load(kept, weights_only=True), case.updates()
        resumed.net.load_state_dict(state["net"])
        resumed.optimizer.load_state_dict(state["optimizer"])
        resumed.memory.update(state["memory"])
        remedy = "a training that goes on after a kill takes another step; what lives from batch to batch belongs in ctx.memory"
        expect(torch.equal(resumed.batch(rows, 2, progress, 0.01), expected), remedy)


def _learns(case: DefenseCase) -> None:
    run = case.updates()
    before, unsure = float(case.loss(run.net).detach()), _clean(case, run)
    for step in range(STEPS):
        loss = run.batch(torch.arange(64 * step, 64 * (step + 1)) % len(case.data), 0, step / STEPS, 1 / STEPS)
        expect(loss.isfinite(), f"the loss is {float(loss)} in step {step + 1}; look for a sign, 0/0 or a learning rate")
    after = float(case.loss(run.net).detach())
    expect(after < before, f"{STEPS} steps took the loss from {before:.3f} to {after:.3f}; is its gradient cut off somewhere?")
    expect(
        _clean(case, run) < unsure,
        f"the loss fell in {STEPS} steps, the cross-entropy on clean images rose; is its sign right?",
    )


@torch.no_grad()
def _clean(case: DefenseCase, run: Updates) -> float:
    x, y = case.data.batch(torch.arange(256))
    return float(F.cross_entropy(run.net(x), y))


def _at_test_time(case: DefenseCase) -> nn.Module:
    defense = case.defense()
    return defense.wrap(defense.fit(network(case.data).net, case.data)).eval()


def _answers(case: DefenseCase) -> None:
    x = case.data.batch(torch.arange(SIZE))[0]
    with isolated(0), torch.no_grad():
        logits = _at_test_time(case)(x)
    expect(logits.shape == (SIZE, case.data.classes), f"what wrap() made answers with {list(logits.shape)}; answer with [N, K]")
    expect(logits.isfinite().all(), "what wrap() made answers with NaN or infinity on an untrained network")


def _proves(case: DefenseCase) -> None:
    """What it certifies, of few images and with no thought for speed, is of the right form; so is what it reports."""
    run = case.updates()
    run.batch(torch.arange(SIZE), 0, 0.9, 0.01)
    said = {"report": dict(case.defense().report(run.memory)), "settings": run.job.settings()}
    for what, content in said.items():
        try:
            json.dumps(content, allow_nan=False)
        except (TypeError, ValueError) as error:
            expect(False, f"its {what} cannot be written down ({error}); keep to numbers, text and lists")
    if not type(case.defense()).has_certificates():
        return
    x = case.data.batch(torch.arange(2))[0]
    with torch.no_grad():
        found = proved(case.defense(), _at_test_time(case), x, case.threat, Rng(0, case.data.ids[:2]))
    if found is not None:
        longest, reach = float(found[1].max()), case.defense().certifies_up_to(case.threat)
        expect(longest <= reach, f"it certified {longest:.4g}, and its certifies_up_to() says {reach:.4g} at most")


CHECKS: Mapping[str, Callable[[DefenseCase], None]] = {
    "finite scalar loss": _finite,
    "gradients reach every weight": _gradients,
    "network and images left as found": _traces,
    "no global random state": _global,
    "same context, same loss": _repeats,
    "noise keyed by sample": _keyed,
    "budget within [0, eps]": _budget,
    "state survives a restart": _resumes,
    f"{STEPS} steps lower the loss": _learns,
    "answers at test time": _answers,
    "certificates and records": _proves,
}
"""Under each threat model."""

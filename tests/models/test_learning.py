"""Networks that learn from what they are asked: they are evaluated as they are, and not as freezing makes them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench import load_plugin, train
from bench.core import isolated
from bench.data import load
from bench.models import load_subject
from bench.models.factory import call_factory

HEAD = """
import torch
from torch import nn


class Adapts(nn.Module):
    \"\"\"Sharpens its answers to a batch by a factor that gradients find, anew for each batch.\"\"\"

    def __init__(self, net):
        super().__init__()
        self.net, self.gain = net, nn.Parameter(torch.ones(1))

    def forward(self, x):
        with torch.no_grad():
            self.gain.fill_(1.0)
        with torch.enable_grad():
            for _ in range(3):
                p = self.net({inside} * self.gain).log_softmax(1)
                loss = -(p.exp() * p).sum(1).mean()
                self.gain.grad = None
                loss.backward()
                with torch.no_grad():
                    self.gain -= 0.5 * {gradient}
        return self.net(x * self.gain.detach())
"""
FACTORY = """

def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {around}(nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))
"""
SILENT, LOUD = "(0 if self.gain.grad is None else self.gain.grad)", "self.gain.grad"
DATA = load("digits", "test")


def by_itself(file: Path) -> Tensor:
    x, _ = DATA.batch(torch.arange(40))
    return call_factory(file, "net").eval()(x).detach()  # type: ignore[no-any-return]


@pytest.mark.parametrize("inside", ["x", "x.detach()"])
@pytest.mark.parametrize("gradient", [SILENT, LOUD])
def test_adaptation_at_test_time_is_not_switched_off(inside: str, gradient: str, tmp_path: Path) -> None:
    """Where its parameters are frozen, one that copes without a gradient does not adapt, and others raise."""
    file = tmp_path / "mine.py"
    file.write_text(HEAD.format(inside=inside, gradient=gradient) + FACTORY.format(around="Adapts"))
    x, _ = DATA.batch(torch.arange(40))
    alone = by_itself(file)
    subject = load_subject(f"py:{file}:net", DATA, "digits", 0)
    torch.testing.assert_close(subject.model.net(x), alone)
    torch.testing.assert_close(subject.model.net(x), alone)
    assert subject.batch_dependent
    with torch.no_grad():
        torch.testing.assert_close(subject.model.net(x), alone)
    z = x.clone().requires_grad_()
    assert torch.autograd.grad(subject.model.net(z).sum(), z)[0].any()


def test_a_network_that_does_not_learn_is_frozen(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(HEAD.format(inside="x", gradient=SILENT) + FACTORY.format(around=""))
    subject = load_subject(f"py:{file}:net", DATA, "digits", 0)
    assert not any(parameter.requires_grad for parameter in subject.model.net.parameters())


def test_parameters_that_were_frozen_stay_so(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    text = HEAD.format(inside="x", gradient=LOUD) + FACTORY.format(around="Adapts")
    file.write_text(text.replace("self.net, self.gain = net,", "self.net, self.gain = net.requires_grad_(False),"))
    subject = load_subject(f"py:{file}:net", DATA, "digits", 0)
    assert [name for name, part in subject.model.net.named_parameters() if part.requires_grad] == ["net.gain"]


def test_a_defense_that_adapts_at_test_time_does(tmp_path: Path) -> None:
    file = tmp_path / "adapts.py"
    file.write_text(
        HEAD.format(inside="x", gradient=SILENT) + "\n\nfrom bench.defense import Defense, defense\n\n\n"
        "@defense('adapts')\nclass Mine(Defense):\n    '''Adapts.'''\n\n"
        "    def loss(self, net, x, y, ctx):\n        return ctx.cross_entropy(net(x), y)\n\n"
        "    def wrap(self, net):\n        return Adapts(net)\n"
    )
    load_plugin(file)
    run = train("adapts", settings={"epochs": "1"}, model="digits_cnn?width=4", results=tmp_path, quiet=True)
    net = load_subject(str(run), DATA, "digits", 0).model.net
    x, _ = DATA.batch(torch.arange(40))
    with isolated(0):
        adapted = net(x)
    assert (net.gain != 1).all()  # type: ignore[operator]
    torch.testing.assert_close(adapted, net.net(x * net.gain))  # type: ignore[operator]

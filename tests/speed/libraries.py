"""PGD-50 x 10 of the harness beside that of other libraries: same network, same points, same steps.

Each library runs as its documentation has it, in an environment of its own. All step eps / 4 along the sign of the gradient,
from uniform starts; every candidate is judged by the harness. Ours, torchattacks and adv-lib restart on the survivors only,
foolbox on all. Our time includes the clean pass, the judging and the files; theirs is the attack alone.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench import data, evaluate, train
from bench.core.judge import Judge
from bench.core.threat import ThreatModel
from bench.evaluation.request import choose_threat
from bench.models import resolve
from bench.models.subject import training_record

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from environment import InstallError, build_wheel, create

PACKAGES: dict[str, dict[str, Any]] = {
    "torchattacks": {"packages": ["torchattacks>=3.5.1"]},
    "foolbox": {"packages": ["foolbox>=3.3.4"]},
    # It requires visdom, a source package that is built with pkg_resources, which setuptools 82 dropped.
    "adv-lib": {"packages": ["adv-lib>=0.2.8"], "constraint": "setuptools<82"},
}
Attack = Callable[[Tensor, Tensor], Tensor]


def torchattacks(net: nn.Module, device: str, eps: float, steps: int, restarts: int) -> Attack:
    """Its way to restart is a chain of attacks, each on what the one before left."""
    import torchattacks as library

    runs = [library.PGD(net, eps=eps, alpha=eps / 4, steps=steps) for _ in range(restarts)]
    attack = library.MultiAttack(runs) if restarts > 1 else runs[0]
    attack.set_device(device)
    return attack


def foolbox(net: nn.Module, device: str, eps: float, steps: int, restarts: int) -> Attack:
    """Its way to restart is to repeat an attack, which keeps the first success."""
    import foolbox as library

    model = library.PyTorchModel(net, bounds=(0, 1), device=device)
    attack = library.attacks.LinfPGD(rel_stepsize=0.25, steps=steps).repeat(restarts)
    return lambda x, y: attack(model, x, y, epsilons=eps)[1]


def adv_lib(net: nn.Module, device: str, eps: float, steps: int, restarts: int) -> Attack:
    """Restarts are a parameter of its attack."""
    from adv_lib.attacks import pgd_linf

    return lambda x, y: pgd_linf(net, x, y, eps, steps=steps, restarts=restarts, relative_step_size=0.25)


LIBRARIES = {"torchattacks": torchattacks, "foolbox": foolbox, "adv-lib": adv_lib}


def harness(options: argparse.Namespace) -> tuple[float, float]:
    """Seconds and robust accuracy of an evaluation."""
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "pgd.toml"
        plan.write_text(
            f'[[attacks]]\nattack = "pgd"\non = "all"\nrestarts = {options.restarts}\n'
            f'parameters = {{steps = {options.steps}, step = 0.25, loss = "ce"}}\n'
        )
        card, _ = evaluate(
            options.model, dataset=options.dataset, norm="linf", eps=options.eps, plan_name=str(plan), n=options.n,
            results=Path(folder), device_name=options.device, batch_size=options.batch_size, quiet=True,
        )  # fmt: skip
    return card.seconds, card.robust_accuracy


def library(options: argparse.Namespace) -> tuple[float, float]:
    """Seconds and robust accuracy of a library's attack."""
    samples = data.load(options.dataset, "all").to(options.device)
    threat = ThreatModel.parse("linf", options.eps)
    net = resolve(options.model, samples.shape, samples.classes, at_least=True).net.to(options.device)
    make, judge = LIBRARIES[options.worker], Judge(net, threat)
    x, y = samples.batch(torch.arange(len(samples)))
    attack = make(net, options.device, threat.radius, options.steps, options.restarts)
    batches = list(zip(x.split(options.batch_size), y.split(options.batch_size), strict=True))
    began = time.monotonic()
    z = torch.cat([attack(images, labels) for images, labels in batches])
    if z.is_cuda:
        torch.cuda.synchronize()
    seconds = time.monotonic() - began
    return seconds, 1 - float(judge.verdict(z, x, y).fooled.float().mean())


def points(reference: str, name: str, n: int, path: Path) -> int:
    """Write those of the first n test images that the model classifies correctly; how many they are."""
    samples = data.load(name).first(n)
    net = resolve(reference, samples.shape, samples.classes).net
    x, y = samples.batch(torch.arange(len(samples)))
    keep = Judge(net, ThreatModel.parse("linf", "0")).correct(x, y)[0]
    np.savez(path, x=samples.x[keep].permute(0, 2, 3, 1).numpy(), y=y[keep].numpy())
    return int(keep.sum())


class Runner:
    """A process in an environment that runs its attack each time it is asked."""

    def __init__(self, python: Path, who: str, options: list[str], log: Path) -> None:
        self.log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [python, __file__, "--worker", who, *options], env={**os.environ, "PYTHONPATH": ""}, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip

    def ask(self) -> tuple[float, float]:
        """Seconds and robust accuracy of one run."""
        assert self.process.stdin
        assert self.process.stdout
        try:
            print("again", file=self.process.stdin, flush=True)
            seconds, accuracy = json.loads(self.process.stdout.readline())
        except (ValueError, OSError):
            raise InstallError((self.log.read_text().strip() or "it does not run").splitlines()[-1]) from None
        return seconds, accuracy

    def stop(self) -> None:
        """Let the process end."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("libraries", nargs="*", metavar="LIBRARY", help=f"of {', '.join(PACKAGES)}; all unless named")
    parser.add_argument("--model", help="as of `gauntlet evaluate`; fast_at is trained on digits unless given")
    parser.add_argument("--dataset", help="its data set [default: the one it was trained on, or digits]")
    parser.add_argument("--eps", help="linf radius [default: that of the training or of the data set]")
    parser.add_argument("--n", type=int, default=128, help="of how many test images the correct ones are attacked")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, in turns; medians are shown")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--worker", choices=["gauntlet", *LIBRARIES], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.libraries) - set(PACKAGES):
        parser.error(f"unknown library {', '.join(sorted(unknown))}; known are {', '.join(PACKAGES)}")
    return options


def start(options: argparse.Namespace, folder: Path) -> dict[str, Runner]:
    """A process for each library that can be installed, and one for the harness; the points are written before."""
    reference = options.model or str(train("fast_at", settings={"epochs": "8"}, results=folder / "runs", quiet=True))
    record = training_record(reference)
    dataset = options.dataset or record.get("dataset", "digits")
    eps = choose_threat("linf", options.eps, record.get("threat", {}), data.load(dataset).family).eps_text
    # A weights file, because a run folder would keep our cards.
    weights = str(Path(reference.removeprefix("run:")) / "best.safetensors") if record else reference
    count = points(weights, dataset, options.n, folder / "points.npz")
    print(  # noqa: T201
        f"PGD-{options.steps} x {options.restarts}, linf {eps}, {count} correct images of {dataset}, batch "
        f"{options.batch_size}, torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads"
    )
    given = {"model": weights, "dataset": folder / "points.npz", "eps": eps, "n": count, "steps": options.steps}
    given |= {"restarts": options.restarts, "batch-size": options.batch_size, "device": options.device}
    words = [text for key, value in given.items() for text in (f"--{key}", str(value))]
    runners = {"gauntlet": Runner(Path(sys.executable), "gauntlet", words, folder / "gauntlet.log")}
    for who in options.libraries or PACKAGES:
        try:
            wheel = next((folder / "dist").glob("*.whl"), None) or build_wheel(folder)
            python = create(folder / who, wheel, **PACKAGES[who])
            runners[who] = Runner(python, who, words, folder / f"{who}.log")
        except InstallError as error:
            print(f"{who:14} skipped, could not be installed: {error}", flush=True)  # noqa: T201
    return runners


def main() -> None:
    """Print a line per library: seconds, how many times ours, and the robust accuracy it finds."""
    options = parse()
    if options.worker:
        once = harness if options.worker == "gauntlet" else library
        for _ in sys.stdin:
            print(json.dumps(once(options)), flush=True)  # noqa: T201
        return
    with tempfile.TemporaryDirectory() as folder:
        runners = start(options, Path(folder))
        seconds: dict[str, list[float]] = {who: [] for who in runners}
        accuracy: dict[str, float] = {}
        # In turns, so that what else the machine does falls on all; the first turn sets up what is set up once.
        for turn in range(options.repeats + 1):
            for who, runner in list(runners.items()):
                try:
                    took, accuracy[who] = runner.ask()
                except InstallError as error:
                    if who == "gauntlet":
                        raise
                    print(f"{who:14} skipped, does not run: {error}", flush=True)  # noqa: T201
                    runners.pop(who).stop()
                else:
                    seconds[who] += [took] if turn else []
        for who, runner in runners.items():
            runner.stop()
            ratio = median(theirs / own for theirs, own in zip(seconds[who], seconds["gauntlet"], strict=True))
            print(f"{who:14} {median(seconds[who]):8.2f} s {ratio:6.2f} x   robust {accuracy[who]:.4f}")  # noqa: T201


if __name__ == "__main__":
    main()

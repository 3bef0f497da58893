"""One training loop for every defense: resumable after every epoch, selected by validation, with its cost on record."""

from __future__ import annotations

import copy
import json
import math
import platform
import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import data
from bench.core import device, isolated, shuffled
from bench.errors import BadInput
from bench.files import Reporter, write_text
from bench.models import architectures, batchnorm, load_weights, save_weights
from bench.results import collapsed, guessed
from bench.training.averages import EMA, SWA
from bench.training.earlier import JOB, RECORD
from bench.training.job import SCHEMA, Job
from bench.training.network import TrainingNet
from bench.training.state import Progress, load_state, save_state
from bench.training.update import Updates
from bench.training.validation import validate
from bench.training.watch import KernelWatch
from bench.wording import count_of

STATE = "state.pt"
STATISTICS_BATCHES = 64
"""Batches that kept statistics are recomputed on, at most."""


class Trainer:
    """Trains one job in one folder."""

    def __init__(self, job: Job, folder: Path, where: torch.device, report: Reporter, watch: Sequence[str] = ()) -> None:
        self.job, self.folder, self.where, self.report = job, folder, where, report
        whole = data.load(job.dataset, "train")
        for note in whole.notes:
            report.say(f"note: {note}")
        train, validation = data.hold_out(whole, job.recipe.validation)
        if len(train) < 2:
            raise BadInput(f"{job.dataset} leaves {len(train)} image to train on; give at least 3")
        self.train_data, self.validation = train.to(where), validation.to(where)
        statistics = data.STATISTICS.get(job.dataset)
        # The plain seed, as the papers' scripts set it: same seed, same initial weights as theirs.
        with isolated(job.seed):
            net = architectures.build(job.arch, whole.shape, whole.classes, statistics)
        recipe = job.recipe
        if not batchnorm.layers(net) and (option := recipe.of_norms()):
            raise BadInput(f"{job.arch} has no batch norms, so {option} would do nothing; leave it out")
        self.net = TrainingNet(net, where, recipe.precision, whole.shape, separate=recipe.separate_norms)
        if recipe.biased_norms:
            batchnorm.keep_biased(net)
        self.ema = EMA(self.net, recipe.ema, buffers=recipe.ema_buffers) if recipe.ema is not None else None
        self.swa = SWA(self.net) if recipe.swa is not None else None
        self.judged = self.net
        """The network that is validated and kept."""
        self.updates = Updates(job, self.net, self.train_data, self.ema)
        size = len(self.train_data)
        self.watch = KernelWatch(job, folder, self.validation, size, recipe.epochs) if "kernel" in watch else None
        self.done = Progress()
        self.metadata = {
            "arch": job.arch, "shape": ",".join(map(str, whole.shape)), "classes": str(whole.classes),
            "normalized": str(int(statistics is not None)),
        }  # fmt: skip

    def run(self) -> None:
        """Train what is left of the epochs, then write the record that says the training is complete."""
        self._resume()
        write_text(self.folder / JOB, json.dumps({**self.job.about(), "code": self.job.code}) + "\n")
        ends = self.job.snapshots()
        if short := self._fewer_members(len(ends)):
            self.report.say(short)
        if self.watch and not self.done.epoch:
            self.watch.after(0, self.net.net)
        while self.done.epoch < self.job.recipe.epochs:
            epoch, began = self.done.epoch, time.monotonic()
            with isolated(self.job.seed, "epoch", epoch):
                loss = self._epoch(epoch)
                self.judged = self._judged(epoch)
            self.done.seconds += time.monotonic() - began
            if not math.isfinite(loss):
                raise BadInput(
                    f"the training of {self.job.name} diverged in epoch {epoch + 1} (loss {loss}); {self._steadier()}"
                )
            entry = {"epoch": epoch + 1, "loss": loss, **self._accuracies(), "seconds": round(self.done.seconds, 3)}
            self.done.history.append(entry)
            self._keep(epoch, [number for number, end in enumerate(ends, 1) if end == epoch + 1])
            if self.watch:
                self.watch.after(epoch + 1, self.judged.net)
            self.done.epoch += 1
            self._save_state()
            told = " ".join(f"{name} {entry[name]:.1%}" for name in ("clean", "fgsm", "pgd"))
            note = f"epoch {epoch + 1}/{self.job.recipe.epochs} loss {loss:.3f} {told}"
            self.report.advance(0, note, milestone=True)
            if self._collapse() == epoch:
                self.report.say(f"catastrophic overfitting in epoch {epoch + 1}: FGSM stays high while PGD-10 fell")
        if ends:
            self._assemble(len(ends))
        self._finish()
        if told := self._unlearned():
            self.report.say(told)
        if self.watch:
            self.report.say(self.watch.told(self.done.seconds))

    def _epoch(self, epoch: int) -> float:
        recipe = self.job.recipe
        batches = self._batches(epoch)
        total = torch.zeros((), device=self.where)
        self.net.train()
        for number, index in enumerate(batches):
            progress = (epoch + number / len(batches)) / recipe.epochs
            total += self.updates.batch(index, epoch, progress, 1 / len(batches) / recipe.epochs)
            self.report.advance(1 / len(batches), f"epoch {epoch + 1}/{recipe.epochs}")
        if recipe.separate_norms and (idle := self.net.idle_norms()):
            name = self.job.defense.name
            raise BadInput(f"defense {name!r} showed the network no {idle} images in epoch 1; leave separate_norms out")
        if self.swa and recipe.swa is not None and (epoch + 1) / recipe.epochs > recipe.swa:
            self.swa.update(self.net)
        return float(total) / len(batches)

    def _batches(self, epoch: int) -> list[Tensor]:
        order = shuffled(len(self.train_data), self.job.seed, "order", epoch).to(self.where)
        return [batch for batch in order.split(self.job.recipe.batch_size) if len(batch) > 1]

    def _judged(self, epoch: int) -> TrainingNet:
        """The network after this epoch, or an average, with the statistics that the recipe asks for."""
        wanted = self.job.recipe.statistics
        swa = self.swa if self.swa and self.swa.updates else None
        average = swa or self.ema
        net = average.net if average else self.net
        if swa and wanted == "running":
            wanted = "adversarial"
        if wanted == "running" or not batchnorm.layers(net.net):
            return net
        net = copy.deepcopy(net)
        if wanted == "batch":
            batchnorm.use_batches(net.net)
        else:
            # A loss may ask for gradients of the weights, as it does of those that are trained.
            for parameter, trained in zip(net.parameters(), self.net.parameters(), strict=True):
                parameter.requires_grad_(trained.requires_grad)
            self._recompute(net, epoch, clean=wanted == "clean")
        return net.requires_grad_(False)

    def _recompute(self, net: TrainingNet, epoch: int, *, clean: bool) -> None:
        """Give a network the batch statistics of the images that are trained on at the end of this epoch, or of clean ones."""
        batches = self._batches(epoch)
        last = (epoch + 1 - 1 / len(batches)) / self.job.recipe.epochs
        net.forwards = net.backwards = 0
        with batchnorm.recomputed(net.train().net):
            for index in batches[:STATISTICS_BATCHES]:
                self.updates.show(net, index, epoch, last, clean=clean)
        self.net.forwards += net.forwards
        self.net.backwards += net.backwards

    def _accuracies(self) -> dict[str, float]:
        spent = (self.net.forwards, self.net.backwards)
        found = validate(self.judged.eval(), self.validation, self.job.threat)
        self.net.forwards, self.net.backwards = spent
        return found

    def _steadier(self) -> str:
        """What may keep this training from diverging: what it has set, and float32 where it has less."""
        recipe, remedies = self.job.recipe, [f"lower lr (now {self.job.recipe.lr:g})"]
        if recipe.awp is not None:
            remedies.append(f"lower awp (now {recipe.awp:g})")
        if self.net.bf16:
            remedies.append("train with precision=float32")
        return ", or ".join(remedies)

    def _fewer_members(self, members: int) -> str:
        """A sentence where the training is too short for all snapshots that are asked for."""
        asked = self.job.shares()
        if members == len(asked):
            return ""
        epochs, points = count_of(self.job.recipe.epochs, "epoch"), ", ".join(f"{point:g}" for point in asked)
        return (
            f"note: the ensemble has {count_of(members, 'member')} and not {len(asked)}, because {epochs} cannot be cut at "
            f"{points}; train longer for all of them"
        )

    def _unlearned(self) -> str:
        """A sentence with the remedies, where the network was right no more often than a guess after each epoch."""
        images, classes, recipe = len(self.validation), self.validation.classes, self.job.recipe
        if not all(guessed(entry["clean"], images, classes) for entry in self.done.history):
            return ""
        remedies = [f"lower lr (now {recipe.lr:g})"]
        if self.job.defense.passes != "1" and not recipe.eps_schedule:
            remedies.append("let the budget rise (eps_schedule=linear:0,2)")
        return f"{self.job.name} was right no more often than a guess after each epoch: {', or '.join(remedies)}"

    def _collapse(self) -> int | None:
        """The epoch of catastrophic overfitting, for a method that can suffer it."""
        if not self.job.defense.can_collapse():
            return None
        return collapsed(self.done.history, len(self.validation), self.validation.classes)

    def _keep(self, epoch: int, snapshots: list[int]) -> None:
        """Write the weights: last always, best when validation says so, snapshots at the ends of periods."""
        scores = [(entry[self.job.defense.selects], entry["clean"]) for entry in self.done.history]
        names = ["last"] + ["best"] * (scores[-1] > max(scores[:-1], default=(-1.0, -1.0)))
        names += [f"snapshot-{number}" for number in snapshots]
        every = self.job.recipe.keep_every
        if every and ((epoch + 1) % every == 0 or epoch + 1 == self.job.recipe.epochs):
            names.append(f"epoch-{epoch + 1}")
        if "best" in names:
            self.done.best = epoch
        for name in names:
            save_weights(self.folder / f"{name}.safetensors", self.judged.net, self.metadata)

    def _assemble(self, members: int) -> None:
        """The snapshots as one ensemble."""
        state = {}
        for number in range(members):
            weights, _ = load_weights(self.folder / f"snapshot-{number + 1}.safetensors")
            state.update({f"members.{number}.{key}": value for key, value in weights.items()})
        save_weights(self.folder / "ensemble.safetensors", state, {**self.metadata, "members": str(members)})

    def _save_state(self) -> None:
        self.done.forwards, self.done.backwards = self.net.forwards, self.net.backwards
        save_state(self.folder / STATE, self.job, self.updates, (self.ema, self.swa), self.done)

    def _resume(self) -> None:
        path = self.folder / STATE
        if path.exists():
            self.done = load_state(path, self.job, self.updates, (self.ema, self.swa), self.where)
            self.net.forwards, self.net.backwards = self.done.forwards, self.done.backwards
            self.report.advance(self.done.epoch, f"going on after epoch {self.done.epoch}", milestone=True)
        elif (self.folder / RECORD).exists():
            # A record without its weights must not make those of a first epoch look finished.
            self._save_state()

    def _finish(self) -> None:
        job, size = self.job, len(self.train_data)
        collapse = self._collapse()
        memory = torch.cuda.max_memory_allocated(self.where) if self.where.type == "cuda" else _peak_memory()
        record = {
            "schema_version": SCHEMA,
            **job.about(),
            "fields": sorted(job.defense.hyper_parameters()),
            "training": {
                "seed": job.seed,
                "epochs": job.recipe.epochs,
                "best_epoch": self.done.best + 1,
                "collapse_epoch": None if collapse is None else collapse + 1,
                "forwards_per_sample": self.net.forwards / size,
                "backwards_per_sample": self.net.backwards / size,
                "samples": size,
                "validation": len(self.validation),
                "seconds": round(self.done.seconds, 1),
                "peak_memory_mib": memory // 2**20,
                "precision": "bf16" if self.net.bf16 else "float32",
                "device": device.describe(self.where),
            },
            "history": self.done.history,
            **({"found": found} if (found := self._reported()) else {}),
            **({"code": job.code} if job.code else {}),
            **({"files": dict(job.files)} if job.files else {}),
            "data_digest": self.train_data.digest,
            "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        }
        if job.dataset not in data.CLASSES:
            data.remember(self.folder, self.train_data, self.validation)
        write_text(self.folder / RECORD, self._json(record) + "\n")
        # The state last: while it is there, the training is not finished.
        for file in (JOB, STATE):
            (self.folder / file).unlink(missing_ok=True)

    def _reported(self) -> dict[str, Any]:
        found = self.job.defense.report(self.updates.memory)
        if not isinstance(found, Mapping):
            told = f"report returned {type(found).__name__}; return a dict of numbers, text and lists"
            raise BadInput(f"defense {self.job.defense.name!r}: {told}")
        return dict(found)

    def _json(self, record: dict[str, Any]) -> str:
        try:
            return json.dumps(record, indent=2, allow_nan=False)
        except (TypeError, ValueError) as error:
            name = self.job.defense.name
            raise BadInput(
                f"defense {name!r}: its record cannot be written ({error}); report numbers, text and lists"
            ) from None


def finished(folder: Path, job: Job) -> bool:
    """Whether a folder holds what a training of this job ends with and is evaluated: its record, and the weights that answer.

    A clone has no others of the project's own rows; trained again on another kind of processor, weights would differ from those
    that prove the rows, and take their place.
    """
    answering = "ensemble" if job.shares() else "best"
    files = (RECORD, f"{answering}.safetensors")
    return all((folder / file).exists() for file in files) and not (folder / STATE).exists()


def _peak_memory() -> int:
    scale = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale

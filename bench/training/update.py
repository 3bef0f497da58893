"""One batch of a training: examples, a loss, perhaps perturbed weights, an update, an average."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench import data
from bench.core import Rng
from bench.data import Dataset
from bench.errors import BadInput
from bench.models import batchnorm
from bench.plugins import Context, InputGradient, budget_factor, learning_rate
from bench.training import awp
from bench.training.averages import EMA
from bench.training.job import Job
from bench.training.network import TrainingNet
from bench.training.recipe import Recipe


class Updates:
    """Carries out a job's updates on a network; `memory` and `optimizer` are the state that a checkpoint needs."""

    def __init__(self, job: Job, net: TrainingNet, samples: Dataset, ema: EMA[TrainingNet] | None) -> None:
        self.job, self.net, self.samples, self.ema = job, net, samples, ema
        self.optimizer = _optimizer(job.recipe, net)
        self.memory: dict[str, Tensor] = {}
        self._rate = learning_rate(job.recipe.schedule)
        self._factor = budget_factor(job.recipe.eps_schedule)

    def batch(self, index: Tensor, epoch: int, progress: float, share: float) -> Tensor:
        """All updates on one batch, from this progress of the training on; `share` of it is theirs. The last loss, detached."""
        recipe = self.job.recipe
        x, y, rng = self._images(index, epoch)
        gradient = self.net.gradient(recipe.craft, follow=recipe.craft_updates)
        updates = self.job.defense.updates()
        for replay in range(updates):
            ctx = self._context(index, epoch, progress + share * replay / updates, rng, gradient, replay)
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.lr * self._rate(ctx.progress)
            loss = self._update(x, y, ctx)
        return loss

    def show(self, net: TrainingNet, index: Tensor, epoch: int, progress: float, *, clean: bool) -> None:
        """Pass one batch of what is trained on, or of clean images, through a network, for the statistics that it keeps."""
        x, y, rng = self._images(index, epoch)
        if clean:
            with torch.no_grad():
                net(x)
            return
        net.clean_batch = x
        # In train mode, whatever the recipe crafts in: the kept statistics are only just being made, and do not follow this.
        self._loss(net, x, y, self._context(index, epoch, progress, rng, net.gradient("train", follow=False)))

    def _images(self, index: Tensor, epoch: int) -> tuple[Tensor, Tensor, Rng]:
        recipe = self.job.recipe
        rng = Rng(self.job.seed, self.samples.ids[index]).at("epoch", epoch)
        x, y = self.samples.batch(index)
        return (x if recipe.augment == "none" else data.crop_and_flip(x, rng, flip=recipe.augment == "crop_flip")), y, rng

    def _context(
        self, index: Tensor, epoch: int, progress: float, rng: Rng, gradient: InputGradient, replay: int = 0
    ) -> Context:
        job = self.job
        return Context(
            threat=job.threat.scaled(self._factor(progress)) if self._factor else job.defense.budget(job.threat, progress),
            target=job.threat,
            rng=rng,
            progress=progress,
            epoch=epoch,
            gradient=gradient,
            images=self.samples.x,
            labels=self.samples.y,
            index=index,
            memory=self.memory,
            label_smoothing=job.recipe.label_smoothing,
            ema_decay=job.recipe.ema,
            replay=replay,
        )

    def _update(self, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        recipe, moves = self.job.recipe, {}
        self.net.clean_batch = x
        if recipe.awp is not None and ctx.progress >= max(recipe.awp_warmup, recipe.clean_first):
            # Crafting still moves the kept statistics, here and only here; the passes of the loss do so at the second take.
            with batchnorm.frozen(self.net.net):
                moves = awp.perturb(self.net.net, self._trainable(x, y, ctx), recipe.awp)
            ctx.again()
        loss = self._trainable(x, y, ctx)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        awp.restore(moves)
        ctx.commit()
        if self.ema:
            self.ema.update(self.net, ctx.ema_decay)
        return loss.detach()

    def _trainable(self, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        """The loss of the network that is trained, which a step can be taken on."""
        loss = self._loss(self.net, x, y, ctx)
        if not (isinstance(loss, Tensor) and loss.dim() == 0 and loss.requires_grad):
            raise BadInput(
                f"defense {self.job.defense.name!r}: its loss is {_described(loss)}; return a scalar tensor that the weights "
                "have a gradient of"
            )
        return loss

    def _loss(self, net: TrainingNet, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        if ctx.progress < self.job.recipe.clean_first:
            return ctx.cross_entropy(net(x), y)
        try:
            loss = self.job.defense.loss(net, x, y, ctx)
        except RuntimeError as error:
            if not (self.job.recipe.separate_norms and "used in the graph" in str(error)):
                raise
            name = self.job.defense.name
            raise BadInput(
                f"defense {name!r} takes gradients of weights that a pass leaves out, and separate_norms has some for clean "
                "images alone; give torch.autograd.grad allow_unused=True, or leave separate_norms out"
            ) from None
        if ctx.label_smoothing and not ctx.smoothed:
            name = self.job.defense.name
            raise BadInput(
                f"defense {name!r} does not use ctx.cross_entropy, so label_smoothing would do nothing; leave it out"
            )
        return loss


def _described(loss: object) -> str:
    if not isinstance(loss, Tensor):
        return f"of type {type(loss).__name__}"
    return f"of shape {[*loss.shape]}" if loss.dim() else "cut off from the network"


def _optimizer(recipe: Recipe, net: nn.Module) -> torch.optim.Optimizer:
    if recipe.optimizer == "adam":
        return torch.optim.Adam(net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(net.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)

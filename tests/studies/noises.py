"""Over how many directions does each covariance of noise_fgsm spread its energy?

Effective ranks: exp of the entropy of the shares of the energy. Two of the covariances follow the gradient of a network at an
image; theirs are means over 50 test images.

    python tests/studies/noises.py RUN       # a training on CIFAR-10, such as one of overfitting.py
"""

import argparse
from pathlib import Path

import torch
from study import told
from torch import Tensor

from bench.core import cross_entropy, slopes
from bench.data import load
from bench.models import resolve

SAMPLES = 1000
"""Training images whose principal directions are taken, and RANK of these, as noise_fgsm does."""
RANK = 50


def main() -> None:
    """Print a row for each covariance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    train, test = load("cifar10", "train"), load("cifar10", "test")
    flat = train.batch(torch.arange(SAMPLES))[0].flatten(1)
    x, y = test.batch(torch.arange(50))
    net = resolve(f"run:{chosen.run}?weights=last", test.shape, test.classes).net.eval()
    size = slopes(net, x, y, cross_entropy).abs().flatten(1)
    deviations = torch.linalg.svdvals(flat - flat.mean(0))[:RANK]
    rows = (
        ("isotropic", _spread(torch.ones(1, flat.shape[1]))),
        ("gradient", _spread(size)),
        ("complement", _spread(size.amax(1, keepdim=True) - size)),
        ("data", _spread(flat.var(0)[None])),
        ("spectral", _spread(deviations.square()[None])),
    )
    told([(name, f"{rank:.0f}") for name, rank in rows], ("covariance", "effective rank"))


def _spread(energy: Tensor) -> float:
    """Of energies [N, D], the mean over N."""
    share = energy.double() / energy.double().sum(1, keepdim=True)
    return float(torch.special.entr(share).sum(1).exp().mean())


if __name__ == "__main__":
    main()

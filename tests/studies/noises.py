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
from bench.defenses.noise_fgsm import _pixel_variance, _principal_directions
from bench.models import resolve


def main() -> None:
    """Print a row for each covariance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    images, test = load("cifar10", "train").x, load("cifar10", "test")
    x, y = test.batch(torch.arange(50))
    net = resolve(f"run:{chosen.run}?weights=last", test.shape, test.classes).net.eval()
    size = slopes(net, x, y, cross_entropy).abs().flatten(1)
    rows = (
        ("isotropic", _spread(torch.ones(1, x[0].numel()))),
        ("gradient", _spread(size)),
        ("complement", _spread(size.amax(1, keepdim=True) - size)),
        ("data", _spread(_pixel_variance(images).flatten()[None])),
        ("spectral", _spread(_principal_directions(images).square().sum(1)[None])),
    )
    told([(name, f"{rank:.0f}") for name, rank in rows], ("covariance", "effective rank"))


def _spread(energy: Tensor) -> float:
    """Of energies [N, D], the mean over N."""
    share = energy.double() / energy.double().sum(1, keepdim=True)
    return float(torch.special.entr(share).sum(1).exp().mean())


if __name__ == "__main__":
    main()

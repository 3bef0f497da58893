"""What measures come to in short: of each the values that are its headline, and the sentences that say them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

LARGEST = 1e12
"""Of a number in a sentence; a larger one is in the table."""
SENTENCES: Mapping[str, Sequence[tuple[str, ...]]] = {
    "linearity": (
        ("At eps a perturbation is {:.3g} long in l2, where the ball allows {:.3g}.", "l2 size", "eps sqrt(d)"),
        ("First order misses {:.0%} of what the loss changes by there, in the median.", "error, median"),
        ("Between the gradients at the image and at the end of the ascent the cosine is {:.2f}.", "cosine"),
    ),
    "path": (
        ("The mean loss climbs from {:.3g} to {:.3g}, half of it in {:.0f} steps.", "clean loss", "final loss",
         "steps to half of the rise"),
        ("{:.0%} of the steps lose height.", "falling steps"),
        ("{:.1%} of the images are fooled at the end, {:.1%} somewhere on the way.", "fooled at the end", "ever fooled"),
    ),
    "curvature": (
        ("The largest eigenvalue of the Hessian is {:.4g} for the clean loss.", "clean top"),
        ("It is {:.4g} for the adversarial loss.", "adversarial top"),
        ("That is {:.3g} times the clean one.", "top, adversarial over clean"),
        ("Traces: {:.4g} clean, {:.4g} adversarial.", "clean trace", "adversarial trace"),
    ),
    "scattering": (
        ("Between two nearby networks the gradient of the adversarial loss changes by {:.3g} of its length.",
         "change over gradient"),
        ("The weights alone would make that {:.3g}, perturbations that moved {:.3g}.", "by weights over gradient",
         "by perturbations over gradient"),
        ("The perturbations of the two have a cosine of {:.3g}.", "cosine of perturbations"),
        ("Epochs of the training at the loss of a constant answer: {:.0f}.", "plateau epochs"),
    ),
    "kernel": (
        ("From the clean to the attacked kernel the distance is {:.3g}.", "distance, clean to attacked"),
        ("Effective rank: {:.1f} clean, {:.1f} attacked.", "clean effective rank", "attacked effective rank"),
        ("Specialisation: {:.3g} clean, {:.3g} attacked, where 1 is none.", "clean specialisation", "attacked specialisation"),
        ("At the end of the watched training the kernel turned by {:.3g} from look to look.", "velocity"),
    ),
    "landscape": (
        ("At the weights the loss is {:.3g} clean and {:.3g} adversarial.", "clean at the centre", "adversarial at the centre"),
        ("Roughness along the line: {:.3g} clean, {:.3g} adversarial.", "clean roughness", "adversarial roughness"),
        ("Around an image the loss is {:.3g} at the image and {:.3g} at most.", "at the centre", "at most"),
    ),
    "connectivity": (
        ("Straight on, the way has a barrier of {:.3g} in the adversarial loss; a curve that was trained has {:.3g}.",
         "line: barrier", "curve: barrier"),
    ),
    "lipschitz": (
        ("In the ball a margin's slope is at most {:.4g} and was found to be {:.4g}.", "guaranteed", "sampled"),
        ("That proves {:.1%} of the images.", "proved"),
        ("The certain radius is {:.3g} in the median.", "certain radius"),
    ),
}  # fmt: skip
"""Of each measure, sentences and the values that they say, which are its headline; cards have these values."""


def headline(measure: str, values: Mapping[str, float | None]) -> dict[str, float]:
    """Of the values of a measure those that are there and that its sentences say, in their order."""
    names = dict.fromkeys(name for _, *said in SENTENCES.get(measure, ()) for name in said)
    return {name: value for name in names if (value := values.get(name)) is not None}


def sentences(measure: str, values: Mapping[str, float | None]) -> str:
    """What the values come to; a sentence without all of its values is not said."""
    told = []
    for sentence, *names in SENTENCES.get(measure, ()):
        said = [values.get(name) for name in names]
        if all(value is not None and abs(value) < LARGEST for value in said):
            told.append(sentence.format(*said))
    return re.sub(r"(?<=\d)%", " %", " ".join(told))

"""`gauntlet new board`: a leaderboard that works as it stands, with all that its file may say."""

from __future__ import annotations

import os
from pathlib import Path

from bench.core import check_name
from bench.errors import BadInput
from bench.files import write_text

_BOARD = """\
# A leaderboard. `gauntlet board FILE` makes whatever is missing of it, and goes on where it was killed;
# --dry-run says how long that takes, --status how far it is, --only ROW makes some of it, --workers 2 two networks at a time.
title = "TITLE"
about = "What a reader should know: what was left out, and by which rule."

dataset = "digits"              # a name of `gauntlet list datasets`, a .npz file or a folder
threat = "linf 0.2"             # norm and radius in input units, such as "linf 8/255"; or a list of these
plan = "smoke"                  # `gauntlet list plans`, or a .toml file; or a list of these
n = 100                         # test samples; leave it out for 1000, or all where there are fewer
seeds = 2                       # of the trainings: so many from 0 on, or a list such as [0, 7]
# diagnose = true               # say whether each number can be trusted; the plans standard and full do so anyway
# model = "digits_cnn?width=8"  # one architecture for all; leave it out for what each defense's paper used
settings = { epochs = 5 }       # of every training, unless a row says otherwise
# also = [{ plan = "autoattack", seeds = 1 }]   # evaluations besides; each may say plan, n, seeds and diagnose

[[rows]]
defense = "standard"

[[rows]]
defense = "fast_at"             # `gauntlet list fast_at` says what can be set
settings = { step = 1.25 }
grid = { eps_schedule = ["", "linear:0,2"] }    # a row for each value, or for each combination of several settings
# name = "ours"                 # the label; a row may also have threat, plan, n, seeds, diagnose, model and also of its own
# test_time = "rfi"             # a defense added without training
# What others say of it stands beside ours, without a rank; `note` tells in what it differs:
# published = [{ robust = 46.1, clean = 83.8, attack = "PGD-50x10", n = 10000, source = "Wong et al. 2020" }]

# [[external]]                  # a network that others have trained: ckpt:FILE?arch=NAME, robustbench:NAME, or
# reference = "py:net.py:build" # code, which runs only where you name it: gauntlet board FILE --plugin net.py

[[broken]]                      # broken on purpose (`gauntlet list broken`), in a section of its own, to see that it is told
defense = "broken_gradient_kill"
seeds = 1
"""


def scaffold_board(name: str, into: Path) -> str:
    """Write NAME.toml into a folder, which is made where it is missing; returns what to do next."""
    try:
        check_name(name)
    except ValueError as error:
        raise BadInput(f"board {name!r}: {error}") from None
    file = into / f"{name.removesuffix('.toml')}.toml"
    if os.path.lexists(file):
        raise BadInput(f"{file} is already there, and is left as it is; choose another name, or another folder by --into")
    if into.exists() and not into.is_dir():
        raise BadInput(f"--into {into} is a file; name a folder")
    title = file.stem.replace("\\", "").replace('"', "")
    write_text(file, _BOARD.replace("TITLE", title, 1))
    return f"wrote {file}, which works as it stands; next:\n  gauntlet board {file} --dry-run\n  gauntlet board {file}"

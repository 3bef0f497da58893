"""Taking a stranger's row into a board: it is copied, judged as it lies there, and never above what was proved before."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.core import ThreatModel, check_name, device
from bench.errors import BadInput
from bench.escape import line
from bench.files import ASIDE, LOCK, Reporter, alone, bury, opened, regular, set_aside, sha256
from bench.plugins import load_plugin
from bench.results import Card, read_card, section
from bench.verify.cards import Verified, cards_of, to_json, verify_card
from bench.verify.cards import render as show
from bench.verify.consistency import ATTEMPTS, FALLS
from bench.verify.loading import Given
from bench.verify.lowest import LOWEST, lowest_of, proven, read_lowest, remember
from bench.verify.submission import ABOUT, MOST_FILES, SUFFIX, Unpacked, read_about, row_files, unpack

LARGEST_ROW = 2**34
"""Bytes of a row with its weights at most."""
STAGE = ".accept-"
"""How the folders begin that rows are judged in before they have a place."""


class Accepted(NamedTuple):
    """What came of a row that was handed in."""

    found: Verified
    """As it was judged."""
    path: Path | None
    """Its card on the board; None where it was refused."""
    told: str


class Signed(NamedTuple):
    """Who hands a row in, and when, as they say it; no clock is asked, so that the same rows make the same bytes."""

    by: str
    on: str = ""


class Audit(NamedTuple):
    """What makes some samples of a row fall again, or not; it is given, because verifying a row runs no attack."""

    samples: int
    of: Callable[[Verified], Verified]
    """The same row with a check more."""


def accept(
    place: Path,
    board: Path,
    signed: Signed,
    given: Given,
    *,
    audit: Audit | None = None,
    run_code: bool = False,
    quiet: bool = False,
) -> Accepted:
    """Take a row into a board where it holds, stands an audit and is not above the lowest number proved for its model.

    place: a card, its folder, or what `gauntlet submit` made of them. run_code: load the plug-ins that came with it.
    """
    _check(signed)
    if not place.exists():
        raise BadInput(f"there is nothing at {place}; give a card.json, the folder of one, or a file of `gauntlet submit`")
    with Reporter("accept", 1, quiet=quiet) as report, alone(board, report.tell), device.exact_float32():
        # What a kill has left.
        for old in board.glob(f"{STAGE}*"):
            shutil.rmtree(old, ignore_errors=True)
        if not _packed(place):
            return _accepted(place, board, signed, given, audit)
        with _stage(board) as stage:
            try:
                sent = unpack(place, stage)
                for file in sent.code if run_code else ():
                    load_plugin(file)
                return _with(place, sent, _accepted(sent.card, board, signed, given, audit), ran=run_code)
            except BadInput as error:
                raise BadInput(str(error).replace(str(stage), str(place))) from None


def _packed(place: Path) -> bool:
    """Whether it is what `gauntlet submit` makes, whatever it is called."""
    if place.is_dir():
        return False
    try:
        with opened(place) as file:
            return place.suffix == SUFFIX or file.read(2) == b"PK"
    except OSError as error:
        raise BadInput(f"cannot read {place}: {error.strerror or error}; give what `gauntlet submit` wrote") from None


def _accepted(place: Path, board: Path, signed: Signed, given: Given, audit: Audit | None) -> Accepted:
    paths = cards_of([place])
    if len(paths) > 1:
        raise BadInput(f"there are {len(paths)} cards below {place}; one is accepted at a time, such as {paths[0]}")
    source = paths[0].parent.resolve() / paths[0].name
    home = _home(read_card(source), source, board.resolve())
    if home == source.parent:
        return _judged(source, source.parent, board, signed, given, audit)
    with _staged(source, home, board) as staged:
        return _as_from(source, staged, _judged(staged, home, board, signed, given, audit))


def _check(signed: Signed) -> None:
    try:
        check_name(signed.by)
    except ValueError as error:
        raise BadInput(f"--by {signed.by!r}: {error}") from None
    if not signed.on.isprintable() or len(signed.on) > 40:
        raise BadInput(f"--on {signed.on[:40]!r}: give a date, such as 2026-11-28")


def _judged(staged: Path, home: Path, board: Path, signed: Signed, given: Given, audit: Audit | None) -> Accepted:
    """Verify a card where it lies, and give it its place unless that raises something."""
    found = verify_card(staged, given)
    card = found.card
    # That nothing fell is no reason to refuse a row that will be attacked again.
    sure = all(one.ok or (audit and one.name == ATTEMPTS) for one in found.checks)
    if card is None or not sure:
        why = "it does not hold" if found.verdict == "fails" else "it could not be checked here"
        return Accepted(found, None, f"refused: {why}, and a board takes nothing on its word")
    number = proven(card, staged, signed.by, signed.on)
    if audit:
        found = audit.of(found)
        if found.verdict == "fails" or any(one.name == ATTEMPTS for one in found.checks):
            return Accepted(found, None, "refused: attacked again, some of its samples do not do as its records say")
        number = number.model_copy(update={"audited": min(audit.samples, card.n) if found.verdict == "holds" else 0})
    lowest = lowest_of(card, read_lowest(board))
    if lowest and number.standing > lowest.standing:
        return Accepted(
            found, None, f"refused: it says {card.robust_accuracy:.2%} of {card.n}, and its model is down to {lowest.told}; "
            "a row can only go down"
        )  # fmt: skip
    aside = _placed(staged, home, number.standing, card) if staged.parent != home else None
    remember(board, number, card)
    told = [
        f"accepted: {card.robust_accuracy:.2%}",
        f"{number.audited} of its samples attacked again" if number.audited else "not audited",
        *(text for one in found.checks if one.ok for text in one.told if FALLS in text),
        *([f"the row that was there lies in {aside.name}"] if aside else []),
        f"remembered in {board / LOWEST}",
    ]
    return Accepted(found, home / "card.json", ", ".join(told))


def _as_from(source: Path, staged: Path, accepted: Accepted) -> Accepted:
    """The same, with what was judged called by the place that it came from."""
    was, now = str(staged.parent.parent), str(source.parent.parent)
    checks = [one._replace(told=tuple(line.replace(was, now) for line in one.told)) for one in accepted.found.checks]
    return accepted._replace(found=accepted.found._replace(path=source, checks=checks))


def _with(file: Path, sent: Unpacked, accepted: Accepted, *, ran: bool) -> Accepted:
    """The same of a submission: called by its file, and with what is to be done where it could not be checked."""
    inside = str(sent.card.parents[2])
    checks = [one._replace(told=tuple(text.replace(inside, str(file)) for text in one.told)) for one in accepted.found.checks]
    told = [accepted.told.replace(inside, str(file))]
    if accepted.path is None and sent.code and not ran:
        told.append(
            f"it brings code, {', '.join(sent.said.code)}, which runs only where you say so: read it, and add --run-code"
        )
    if accepted.path is None and sent.said.weights_at:
        told.append(
            f"its weights are not in it but, as it says, at {sent.said.weights_at}: fetch them, and name them with --model"
        )
    path = file / sent.card.relative_to(inside)
    return accepted._replace(found=accepted.found._replace(path=path, checks=checks), told="; ".join(told))


def _home(card: Card, source: Path, board: Path) -> Path:
    """The folder on the board that a row belongs into."""
    threat = ThreatModel.parse(card.threat.norm, card.threat.eps)
    names = [source.parent.parent.name, source.parent.name]
    try:
        for name in (Path(card.dataset).stem, *names):
            check_name(name)
    except ValueError as error:
        raise BadInput(f"the row at {source} cannot have a place on the board: {error}") from None
    return section(board, card.dataset, threat).joinpath(*names)


def _files(card: Card, source: Path) -> Iterator[Path]:
    """The files of a row, and what its authors say of it."""
    yield from row_files(card, source)
    about = source.parent / ABOUT
    if about.is_file():
        yield from (Path(source.parent.name, name) for name in (ABOUT, *read_about(about).code))


@contextmanager
def _stage(board: Path) -> Iterator[Path]:
    """An empty folder on the board's disk that nothing takes for a part of the board; gone afterwards."""
    stage = Path(tempfile.mkdtemp(prefix=STAGE, suffix=ASIDE, dir=board.resolve()))
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def _staged(source: Path, home: Path, board: Path) -> Iterator[Path]:
    """A copy of a row's own regular files on the board's disk: what is judged is what is placed."""
    with _stage(board) as stage:
        files = list(dict.fromkeys(_files(read_card(source), source)))
        if len(files) > MOST_FILES:
            raise BadInput(f"{source} names {len(files)} files; a row has {MOST_FILES} at most")
        left = LARGEST_ROW
        for file in files:
            target = stage / home.parent.name / file
            target.parent.mkdir(parents=True, exist_ok=True)
            left -= _copy(source.parent.parent / file, target, left)
        yield stage / home.parent.name / home.name / "card.json"


def _copy(source: Path, target: Path, most: int) -> int:
    """Copy a regular file, no link; returns its size."""
    size = regular(source, most)
    with opened(source) as file, target.open("xb") as copy:
        shutil.copyfileobj(file, copy)
    return size


def _placed(staged: Path, home: Path, standing: int, card: Card) -> Path | None:
    """Move a row that was judged to its place, in one step; a run that is there already must be the same.

    Where another row was in its place, the folder in which it lies now.
    """
    run = staged.parent.parent
    if not home.parent.exists():
        home.parent.parent.mkdir(parents=True, exist_ok=True)
        run.rename(home.parent)
        return None
    if other := _of_other_weights(home, card):
        raise BadInput(
            f"{other} is of other weights than the row handed in, and both say that they are of {run.name}; rename the folder "
            "that is handed in"
        )
    beside = [path for path in run.rglob("*") if path.is_file() and path.parent != staged.parent]
    for file in beside:
        there = home.parent / file.relative_to(run)
        if there.exists() and sha256(there) != sha256(file):
            raise BadInput(f"{there} is another file than the one handed in under that name; rename the folder {run.name}")
    files = [path for path in staged.parent.iterdir() if path.is_file()]
    same = all((home / file.name).exists() and sha256(home / file.name) == sha256(file) for file in files)
    aside = _replaced(home, standing, card) if not same and home.exists() else None
    for file in beside:
        there = home.parent / file.relative_to(run)
        there.parent.mkdir(exist_ok=True)
        file.replace(there)
    if not same:
        staged.parent.rename(home)
    return aside


def _of_other_weights(home: Path, card: Card) -> Path | None:
    """A row of the same run whose network is another one, although it is named alike; a clone has it without its weights."""
    named = (card.model.reference.partition("?")[2], card.model.test_time)
    for path in sorted(home.parent.glob("*/card.json")):
        try:
            there = read_card(path)
        except BadInput:
            continue
        alike = (there.model.reference.partition("?")[2], there.model.test_time) == named
        if alike and there.model.digest != card.model.digest:
            return path
    return None


def _replaced(home: Path, standing: int, new: Card) -> Path:
    """Set aside what lies in the place of a row, where nothing more is known against it than against the new one."""
    bury(home / LOCK)
    try:
        card = read_card(home / "card.json")
    except BadInput:
        card = None
    if card and (other := next((name for name, of in _ASKED.items() if of(card) != of(new)), "")):
        raise BadInput(
            f"{home} holds a row of another {other}, under the same name; rename the folder {home.name} that is handed in"
        )
    if card and round(card.robust_accuracy * card.n) < standing:
        raise BadInput(f"{home} holds a row at {card.robust_accuracy:.2%}, which is lower; look at it with `gauntlet verify`")
    if card and card.doubt > new.doubt:
        raise BadInput(
            f"{home} holds the same row with the verdict {card.verdict}, and a verdict is the board's to change: this one has "
            f"{new.verdict or 'none'}; diagnose it with `gauntlet diagnose`, or remove what lies there"
        )
    return set_aside(home)


_ASKED: Mapping[str, Callable[[Card], object]] = {
    "model": lambda card: card.identity, "plan": lambda card: card.plan_digest, "ball": lambda card: card.threat,
    "choice of samples": lambda card: card.data.digest, "seed": lambda card: card.seed, "eot": lambda card: card.eot,
}  # fmt: skip
"""What two rows have to share to be answers to one question, so that their numbers can be compared."""


def render(accepted: Accepted, *, as_json: bool = False) -> str:
    """What came of a row; where it was refused because it does not hold, why."""
    path = str(accepted.path) if accepted.path else None
    if as_json:
        row = json.loads(to_json([accepted.found]))[0]
        return json.dumps({**row, "accepted": path, "told": accepted.told}, indent=2)
    lines = [] if accepted.path else [show([accepted.found]), ""]
    return "\n".join([*lines, line(accepted.told), *([f"card: {path}"] if path else [])])

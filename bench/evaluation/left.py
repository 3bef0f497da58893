"""What an earlier run left in the folder of an evaluation: a card, used only where it answers this very question, and units."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from bench.errors import BadInput
from bench.evaluation.task import Task
from bench.files import LOCK, Reporter, alone, bury, set_aside, sha256
from bench.results import Card, read_card, unlisted

READ = "a card was there already and was read, nothing was attacked; --fresh attacks anew"
UNKNOWN = (
    "it was made for a network whose answers no seed makes repeat, so that nothing shows whether this is still the same one: "
    "--fresh where its weights, its settings or what it reads may have changed"
)


def read(task: Task) -> str:
    """What is to be said where a card was there."""
    return _of_what(task, READ)


def reused(task: Task, units: int) -> str:
    """What is to be said of so many units; empty where there are none."""
    return _of_what(task, f"units of work used that an earlier run left: {units}; --fresh does all anew") if units else ""


def _of_what(task: Task, told: str) -> str:
    """The same, and where nothing shows that it is of this network, that too."""
    subject = task.subject
    return f"{told}; {UNKNOWN}" if subject.foreign and subject.noisy and not subject.answers.digest else told


def finished(task: Task) -> Card | None:
    """The card of an evaluation that is there with its records and archive, unharmed; BadInput where it is of another one."""
    folder = task.folder
    path = folder / "card.json"
    if not os.path.lexists(path):
        return None
    try:
        card = read_card(path)
    except BadInput as error:
        raise BadInput(f"{error}; --fresh sets it aside and attacks anew") from None
    if told := "; ".join(_differences(card, task)):
        raise BadInput(f"{path} is no answer to this question: {told}; --fresh sets it aside and attacks anew")
    files = (card.records, card.archive, *(addition.archive for addition in card.additions))
    if not all((folder / file.file).exists() and sha256(folder / file.file) == file.sha256 for file in files):
        if who := _added(card, folder):
            raise BadInput(
                f"a file beside {path} is missing or changed, and evaluating anew would lose the examples {who}; "
                "restore it (`gauntlet verify` names it), or move the folder away"
            )
        return None
    if left := unlisted(card, folder):
        raise BadInput(
            f"{left[0]} lies beside {path}, which does not list it: the card may be one from before it was lowered; "
            "`gauntlet verify` says what the examples break"
        )
    # What a kill after the card was written has left behind.
    shutil.rmtree(folder / "units", ignore_errors=True)
    bury(folder / LOCK)
    return card


def begin_anew(task: Task) -> None:
    """Set aside what lies in the folder of an evaluation; BadInput where that would raise a row that somebody lowered."""
    folder = task.folder
    if not any(path.name != LOCK for path in folder.glob("*")):
        return
    with Reporter(f"evaluate {task.label}", 1, quiet=task.quiet) as report, alone(folder, report.tell):
        try:
            card = read_card(folder / "card.json")
        except BadInput:
            card = None
        if who := _added(card, folder):
            raise BadInput(
                f"{folder} holds the examples {who}, which lowered its row, and evaluating anew would lose them; move the "
                "folder away yourself, and hand them in again with `gauntlet verify CARD --add FILE --by NAME`"
            )
        aside = set_aside(folder)
        # Still ours, and it went along.
        (aside / LOCK).unlink(missing_ok=True)
        report.say(f"what lay in {folder} is now in {aside.name}")


def _added(card: Card | None, folder: Path) -> str:
    """Whose examples lie beside a card; empty where nobody added any."""
    if card and card.additions:
        return f"that {card.additions[0].by} added"
    found = unlisted(card, folder)
    return f"of {found[0]}" if found else ""


def _differences(card: Card, task: Task) -> Iterator[str]:
    """In what a card answers another question."""
    radii = ", ".join(ball.eps_text for ball in task.balls) if len(task.balls) > 1 else "none"
    pairs = {
        "plan": (f"{card.plan.name} {card.plan.digest[:12]}", f"{task.plan.name} {task.plan.digest[:12]}"),
        "digest of the plan": (card.plan_digest[:12], task.plan.digest[:12]),
        "n": (card.n, len(task.data)),
        "seed": (card.seed, task.request.seed),
        "eot": (card.eot, task.draws),
        "threat": (f"{card.threat.norm} {card.threat.eps}", str(task.balls[-1])),
        "model (its digest)": (card.model.digest[:12], task.subject.model.digest[:12]),
        "data (their digest)": (card.data.digest[:12], task.data.digest[:12]),
        "test-time defense": (card.model.test_time or "none", task.request.test_time or "none"),
        "code of plug-ins": (_short(card.code), _short(task.code)),
        "radii of the sweep": (", ".join(point.eps for point in card.curve) or "none", radii),
    }  # fmt: skip
    for what, (there, asked) in pairs.items():
        if there != asked:
            yield f"its {what} is {there}, and {asked} is asked for"


def _short(code: dict[str, str]) -> str:
    return ", ".join(f"{name} {digest[:12]}" for name, digest in sorted(code.items())) or "none"

"""What pages say in sentences: the story of a section, a card in words, what to do next."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from bench.compare import TwoPlans
from bench.plans import PLANS
from bench.report import Leaderboard, Method, Row, Section, method_name
from bench.report.tables import DOUBTED
from bench.results import GAP, AttackResult, Card, Measured, guessed
from bench.wording import count_of, duration


def board_lead(board: Leaderboard) -> str:
    """What the whole board holds."""
    rows = len(board.rows)
    if not rows:
        return "No row could be read here; what was left out is named below."
    methods = sum(map(methods_of, board.sections))
    images = sum(row.entry.card.archive.rows for row in board.rows)
    sections = len(board.sections)
    threats = f"{count_of(sections, 'data set')} and threat {'models' if sections > 1 else 'model'}"
    return (
        f"{count_of(methods, 'method')} in {count_of(rows, 'evaluation')} on {threats}, with {images:,} adversarial examples "
        "that prove the numbers."
    )


def methods_of(section: Section) -> int:
    """How many methods; one that several plans attacked is one."""
    firsts = (method.rows[0].entry for part in section.parts for method in part.methods)
    return len({(first.path.parent.parent, first.card.name) for first in firsts})


def counted(section: Section) -> str:
    """What a link to a section says."""
    methods = methods_of(section)
    plans = f" under {len(section.parts)} plans" if len(section.parts) > 1 else ""
    return f"All {count_of(methods, 'method')}{plans} →" if methods > 1 else "The whole row →"


def section_lead(section: Section) -> str:
    """Who is first, with what certainty, and what is doubtful."""
    part = section.parts[0]
    sound = [method for method in part.methods if method.cells["verdict"] not in DOUBTED]
    told = []
    if sound:
        best = sound[0]
        told.append(
            f"{method_name(best)[:80]} keeps {number(best.cells['robust'])} % of {best.cells['n']:,} test images right under "
            f"every attack of plan {part.plan[:40]}{_interval(best)}, at {number(best.cells['clean'])} % clean."
        )
        open_ones = [m for m in sound[1:] if str(m.cells["rank"]).partition("-")[0] == "1"]
        unranked = [method for method in sound if method.cells["rank"] == "-"]
        if unranked and len(sound) > 1:
            told.append(
                f"{count_of(len(unranked), 'method')} without a verdict {'has' if len(unranked) == 1 else 'have'} no rank."
            )
        if open_ones:
            names = ", ".join(method_name(m)[:60] for m in open_ones[:3]) + (" and others" if len(open_ones) > 3 else "")
            told.append(f"First place is open: samples and seeds do not tell it from {names}.")
        elif len(sound) > 1 and not unranked and str(best.cells["rank"]) == "1":
            told.append("First place is settled.")
    doubted = [method for method in part.methods if method not in sound]
    if doubted:
        told.append(f"{count_of(len(doubted), 'number')} {'is' if len(doubted) == 1 else 'are'} in doubt, below all others.")
    return " ".join(told)


def _interval(method: Method) -> str:
    text = str(method.cells["95% interval"])
    return f" (95 % interval {text.replace('-', ' to ')})" if text else ""


def row_lead(row: Row) -> str:
    """A card in two sentences."""
    card = row.entry.card
    right, stands = round(card.clean_accuracy * card.n), round(card.robust_accuracy * card.n)
    return (
        f"Of {card.n:,} test images of {card.dataset[:60]} the network has {right:,} right. Plan {card.plan.name[:60]} "
        f"attacked them within {card.threat.norm} {card.threat.eps} and broke {right - stands:,}; {stands:,} stand."
    )


def trained(row: Row) -> str:
    """How the network came to be."""
    card = row.entry.card
    training, settings = card.model.training, card.model.settings
    if not training:
        return "The network came from elsewhere; the card tells nothing of its training."
    told = f"{card.model.defense} trained {card.model.arch[:80]} for {count_of(int(training.get('epochs') or 0), 'epoch')}"
    if samples := training.get("samples"):
        told += f" on {samples:,} images"
    told += f" with seed {training['seed']}" if "seed" in training else ""
    if "optimizer" in settings and "lr" in settings:
        told += f": {settings['optimizer']}, peak rate {settings['lr']}, schedule {settings.get('schedule')}"
        told += f", batches of {settings.get('batch_size')}"
    told += "."
    if training.get("best_epoch"):
        held_out = training.get("validation", "some")
        told += f" Epoch {training['best_epoch']} was kept, chosen on {held_out} held-out training images."
    if training.get("collapse_epoch"):
        told += f" It collapsed in epoch {training['collapse_epoch']}: single steps stopped finding what several steps find."
    elif (gap := training.get("single_step_gap", 0)) > GAP:
        told += f" Single steps are masked: in the kept epoch FGSM leaves {100 * gap:.0f} points more than PGD-10 does."
    told += _slow_start(row)
    spent = training.get("backwards_per_sample")
    if spent:
        told += f" It took {spent:g} backward passes per image" + (
            f" and {duration(training['seconds'])} ({training.get('device', '')})." if training.get("seconds") else "."
        )
    return told


def _slow_start(row: Row) -> str:
    """A sentence where a tenth of the training or more, and three epochs at least, went by before anything was learned."""
    images, classes = row.entry.card.model.training.get("validation"), len(row.entry.card.classes)
    clean = row.history.curves.get("clean", ()) if row.history else ()
    if not isinstance(images, int) or images < 1 or classes < 2 or any(not 0 <= share <= 1 for share in clean):
        return ""
    first = next((epoch for epoch, share in enumerate(clean) if not guessed(share, images, classes)), len(clean))
    if first < max(3, len(clean) / 10):
        return ""
    if first == len(clean):
        return (
            f" After each of its {first} epochs it was right no more often than a guess is: it never began to learn, which a "
            "lower rate, or a budget that rises (eps_schedule=linear:0,2), may change."
        )
    return f" For its first {first} epochs it was right no more often than a guess is; other seeds may begin sooner."


def proved(row: Row) -> str:
    """What stands behind the number."""
    card, backing = row.entry.card, row.entry.backing
    told = {
        "audited": "The board's maintainer verified this row and attacked some of its samples again.",
        "proved": f"{card.archive.rows:,} adversarial examples lie beside the card, one for each sample it counts as broken, "
        "and agree with its records.",
        "stated": "The number is the card's word alone: its records or examples are not here, or not its own.",
    }[backing]
    return f"{told} The checks below need neither model nor data; gauntlet verify judges every example by the model."


def fell(attacks: Sequence[AttackResult]) -> str:
    """How to read the waterfall."""
    if any(attack.rounds for attack in attacks):
        return (
            "What each arm of the portfolio took that nothing before it had; where many took nothing more, they are one line."
        )
    return "What each attack took that nothing before it in the plan had; its own number is in the table of attacks below."


def other_plan(pair: TwoPlans) -> str:
    """What another plan, the second of the two, left of the same network."""
    here, there = (f"{100 * standing / pair.n:.1f}" for standing in pair.standing)
    mine, others = pair.alone
    lowered = any(side.card.additions for side in (pair.a, pair.b))
    return (
        f"Plan {pair.b.card.plan.name[:40]} leaves {there} % of the same {pair.n:,} images, this one {here} %"
        f"{', before examples that were handed in later' if lowered else ''}: {others:,} stand there only, {mine:,} here only."
    )


def commands(row: Row, results: Path) -> dict[str, list[str]]:
    """What to type to check the row and to make it again."""
    card, where = row.entry.card, shlex.quote(f"{results.name}/{row.where}/card.json")
    check = [f"gauntlet verify {where}", f"gauntlet verify {where} --rerun 50"]
    ours, built_in = bool(card.model.defense and card.model.training), card.plan.name in PLANS
    make = [_threads(card) + _trained(card, evaluated=built_in)] if ours else []
    if not (ours and built_in):
        make.append(_threads(card) + _evaluate(card, row))
    return {"check": check, "make": make}


def _threads(card: Card) -> str:
    """What makes sums come out in the order they had: as many threads, where a CPU trained it."""
    found = re.fullmatch(r"cpu[A-Z0-9 ]{0,20}, ([0-9]{1,3}) threads", str(card.model.training.get("device", "")))
    return f"OMP_NUM_THREADS={found[1]} " if found else ""


def _trained(card: Card, *, evaluated: bool) -> str:
    """The command that trains a network as the card says; evaluated: and attacks it."""
    settings = [
        f"--set {shlex.quote(f'{key}={_plain(value)}')}"
        for key, value in card.model.settings.items()
        if value is not None and value not in ("", [])
    ]
    parts = [
        f"gauntlet {'run' if evaluated else 'train'} {shlex.quote(str(card.model.defense))}",
        f"--dataset {shlex.quote(card.dataset)} --model {shlex.quote(card.model.arch)}",
        f"--norm {card.threat.norm} --eps {card.threat.eps} --seed {card.model.training.get('seed', 0)}"
        + (f" --name {shlex.quote(card.name)}" if card.name != card.model.defense else ""),
        *(" ".join(settings[start : start + 4]) for start in range(0, len(settings), 4)),
        *([f"--plan {shlex.quote(card.plan.name)} --n {card.n}"] if evaluated else []),
    ]
    return " \\\n    ".join(parts)


def _evaluate(card: Card, row: Row) -> str:
    reference = (
        "/".join(("results", *row.where.split("/")[:-1])) if card.model.reference.startswith("run:") else card.model.reference
    )
    sweep = ",".join(point.eps for point in card.curve)
    radius = f"--eps-sweep {sweep}" if len(card.curve) > 1 else f"--eps {card.threat.eps}"
    plan = card.plan.name if card.plan.name in PLANS else f"{card.plan.name}.toml"
    added = f" --test-time {shlex.quote(card.model.test_time)}" if card.model.test_time else ""
    return (
        f"gauntlet evaluate {shlex.quote(reference)} --dataset {shlex.quote(card.dataset)} \\\n"
        f"    --norm {card.threat.norm} {radius} --plan {shlex.quote(plan)} --n {card.n} --seed {card.seed}{added}"
    )


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def facts(card: Card) -> list[tuple[str, str]]:
    """The rest of a card."""
    answers, balanced = card.answers, (card.balanced_accuracy, card.balanced_robust_accuracy)
    set_ones = [(key, value) for key, value in card.model.settings.items() if value not in (None, "", [])]
    found = [
        ("data", f"{card.dataset} {card.data.split}, {card.data.source}; {card.data.taken or f'the first {card.n}'}"),
        ("threat model", f"{card.threat.norm}, eps {card.threat.eps}"),
        ("plan", f"{card.plan.name}: {card.plan.about}"),
        ("plan digest", card.plan_digest[:16]),
        ("seed of the evaluation", str(card.seed)),
        ("precision of the search", card.search or "float32"),
        ("answers averaged (eot)", str(card.eot) if card.eot > 1 else ""),
        ("network", card.model.arch),
        ("reference", card.model.reference),
        ("weights", card.model.digest[:16]),
        ("at test time", card.model.test_time),
        ("settings", ", ".join(f"{key} {_plain(value)}" for key, value in set_ones)),
        ("8-bit accuracy", f"{card.eight_bit_accuracy:.1%}" if card.eight_bit_accuracy is not None else ""),
        ("balanced", f"clean {balanced[0]:.1%}, robust {balanced[1]:.1%}" if None not in balanced else ""),
        ("most frequent answer", f"class {answers.label}, to {answers.share:.1%} of the images" if answers else ""),
        *((f"{short.measure} ({short.file})", _measured(short)) for short in card.measures),
        ("seconds", f"{card.seconds:.0f} ({card.device})"),
        ("versions", ", ".join(f"{key} {value}" for key, value in card.versions.items())),
        ("notes", "; ".join(card.notes)),
    ]  # fmt: skip
    return [(name, text) for name, text in found if text]


def _measured(short: Measured) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in short.values.items())


def number(value: object) -> str:
    """A percentage as tables show it."""
    return f"{float(str(value)):.1f}"

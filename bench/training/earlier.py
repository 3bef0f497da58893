"""Earlier trainings of the same name and seed, and what sets a new one apart from them."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.errors import BadInput
from bench.escape import line
from bench.files import read_json
from bench.training.job import Job

RECORD, JOB = "train.json", "job.json"
"""Of a finished training, and of one that is under way."""
LARGEST = 2**24
"""Bytes of either, at most."""
MOST = 4
"""Differences that are told."""


def begun_anew(job: Job, folder: Path) -> str:
    """Why a training that begins in this folder does not go on with one of the same name; empty where there is none."""
    others = [(apart(job, record), path) for path, record in _others(job, folder)]
    if not others:
        return ""
    differences, path = min(others, key=lambda other: len(other[0]))
    state = "finished" if path.name == RECORD else "unfinished"
    told = ", ".join(differences[:MOST]) + (f" and {len(differences) - MOST} more" if len(differences) > MOST else "")
    return f"trains anew beside {path.parent.name}, which is {state} and another training: {told}"


def apart(job: Job, record: Mapping[str, Any]) -> list[str]:
    """What differs between a training and the record of another, as sentences without a verb."""
    here = {**job.settings(), "defense": job.defense.name, "architecture": job.arch}
    settings = record.get("settings")
    there = {
        **(settings if isinstance(settings, dict) else {}),
        "defense": record.get("defense"),
        "architecture": record.get("arch"),
    }
    keys = [*here, *(key for key in there if key not in here)]
    found = [
        f"{key} {_text(there, key)} there, {_text(here, key)} here" for key in keys if _text(there, key) != _text(here, key)
    ]
    if (record.get("code") or "") != job.code:
        found.append("the code of the defense has changed")
    return found or ["its data have changed" if job.data_digest else "it is of an earlier version"]


def _text(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "not set"
    text = values[key] if isinstance(values[key], str) else json.dumps(values[key])
    return line(text)[:60]


def _others(job: Job, folder: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The records of other trainings of this name and seed, in the order of their folders."""
    for other in sorted(folder.parent.glob(f"{glob.escape(job.name)}-*-s{job.seed}-*")):
        for path in (other / RECORD, other / JOB):
            if other == folder or not path.is_file():
                continue
            try:
                record = read_json(path, LARGEST)
            except (OSError, ValueError, BadInput):
                continue
            if isinstance(record, dict) and record.get("name") == job.name:
                yield path, record
                break

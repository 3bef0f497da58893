"""Every reader of a file that may come from anybody, with what it is tried with; only our own errors may come out of it."""

from __future__ import annotations

import json
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st

from bench import data, train
from bench.core.threat import ThreatModel
from bench.errors import BadInput, GauntletError
from bench.evaluation.evaluation import evaluate
from bench.evaluation.units import Unit, Wanted, load_unit
from bench.files.progress import Reporter
from bench.measures import read_measurement
from bench.models.checkpoint import load_weights
from bench.models.subject import training_record
from bench.pictures import draw
from bench.plans import built_in
from bench.report import views
from bench.report.history import read_history
from bench.results import archive
from bench.results.card import read_card
from bench.runs import read_board
from bench.training.loop import Trainer
from bench.training.request import TrainingRequest
from bench.training.state import load_state
from bench.verify.submission import Submission, submit, unpack

from . import inputs

PLAN = """
name = "mine"
about = "text"

[[attacks]]
attack = "portfolio"
opening = [{attack = "pgd", name = "a", parameters = {steps = 2}}]
arms = [{attack = "pgd", name = "b", parameters = {steps = 3}}, {attack = "square", parameters = {queries = 20}}]

[[attacks]]
attack = "pgd"
restarts = 2
probe = 16
grid = {step = [0.1, 0.5], loss = ["ce", "dlr"]}

[[attacks]]
attack = "square"
samples = 20
optional = true
parameters = {queries = 20}
"""


MEASUREMENT = {
    "schema_version": 1, "measure": "path", "about": "text", "model": "m", "digest": "0", "settings": {"n": 3},
    "values": {"clean loss": 0.5, "final loss": None}, "notes": ["a note"],
    "curves": {"loss": {name: [0.0, 1.0, 2.0] for name in ("step", "mean", "5%", "50%", "95%")}},
    "arrays": {"file": "path-1a.npz", "sha256": "0", "shapes": {"loss": [3, 2]}},
}  # fmt: skip
STATED = {
    "measure": "path", "asked": "digits, test, linf 0.2, n 3, seed 0", "values": {"clean loss": 0.5, "final loss": 1.5},
    "file": "path-1a2b3c4d.json", "sha256": "0" * 64,
}  # fmt: skip
BOARD = """
title = "mine"
dataset = "digits"
threat = ["linf 0.2", "l2 1"]
plan = "smoke"
n = 40
seeds = 2
diagnose = true
settings = {epochs = 2}
also = [{plan = ["fast", "standard"], seeds = [3], n = 20}]

[[rows]]
defense = "fast_at"
name = "a"
grid = {step = [1, 1.25], eps_schedule = ["", "linear:0,2"]}
test_time = "rfi"
published = [{source = "there", robust = 46.1, clean = 80, attack = "PGD", n = 100, note = "b"}]

[[external]]
reference = "ckpt:w.pt?arch=digits_cnn"
eot = 3

[[broken]]
defense = "broken_gradient_kill"
model = "digits_cnn?width=2"
"""


class Reader(NamedTuple):
    """A reader, the name of the file that it reads, and the contents it is tried with."""

    file: str
    read: Callable[[Path], Any]
    contents: st.SearchStrategy[bytes]


class Valid:
    """What the product writes itself, made once."""

    def __init__(self, home: Path) -> None:
        self.marker = home / "code-ran"
        options: dict[str, Any] = {"results": home, "quiet": True}
        settings = {"epochs": "2"}
        self.run = train("fast_at", model="digits_cnn?width=2", settings=settings, **options)
        (home / "p.toml").write_text(PLAN)
        _, path = evaluate(str(self.run), plan_name=str(home / "p.toml"), n=40, quiet=True)
        self.folder = path.parent
        job = TrainingRequest(defense="fast_at", model="digits_cnn?width=2", settings=settings).job()
        self.trainer = Trainer(job, home / "state", torch.device("cpu"), Reporter("", 1, quiet=True))
        self.trainer._save_state()
        self.index = torch.arange(5, 12)
        flags, kept = self.index % 2 == 0, self.index % 3 == 0
        kept = kept | flags
        z = torch.rand(int(kept.sum()), 1, 8, 8)
        counts = torch.ones(7, dtype=torch.int64)
        self.unit = home / "unit.safetensors"
        margin, distance = z.new_zeros(7), z.new_ones(7)
        unit = Unit(0, "pgd", "restart 0", self.index, flags, margin, distance, counts, 2 * counts, kept, z)
        unit.save(self.unit, "key")

    def state(self, path: Path) -> None:
        t = self.trainer
        load_state(path, t.job, t.updates, (t.ema, t.swa), t.where)

    def read_unit(self, path: Path) -> None:
        told: list[str] = []
        if load_unit(path, Wanted("key", 0, "pgd", "restart 0", self.index, (1, 8, 8)), told.append) is None:
            raise BadInput(told[0])

    def plan(self, path: Path) -> None:
        chosen = built_in.load(str(path)).resolved(ThreatModel.parse("linf", "0.1"))
        assert len(chosen.digest) == 64
        built_in.show(chosen)

    def board(self, path: Path) -> None:
        found = read_board(path)
        assert all(next(row.points()) is not None and found.measures(row) for row in (*found.rows, *found.broken))
        again = path.with_name("again.toml")
        again.write_text(found.show())
        assert read_board(again) == found

    def submission(self, path: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            unpack(path, Path(folder))

    def dataset(self, path: Path) -> None:
        for split in ("test", "train"):
            found = data.load(str(path), split)
            found.batch(torch.arange(1))
            assert len(found.digest) == 64


def readers(home: Path) -> dict[str, Reader]:
    """All of them by name."""
    valid = Valid(home)
    card = json.loads((valid.folder / "card.json").read_text()) | {"measures": [STATED]}
    record = json.loads((valid.run / "train.json").read_text())
    weights = (valid.run / "best.safetensors").read_bytes()
    examples = (valid.folder / "archive.safetensors").read_bytes()
    rows = (valid.folder / "samples.parquet").read_bytes()
    unit, state = valid.unit.read_bytes(), (home / "state" / "state.pt").read_bytes()
    pickles = inputs.pickles(valid.marker)
    images = np.random.default_rng(0).random((3, 8, 8, 1), dtype=np.float32)
    arrays = [
        images,
        np.arange(3),
        (images * 255).astype(np.uint8),
        images * 3,
        images[:0],
        np.arange(3.0),
        np.float64(np.nan),
        images > 0.5,
    ]
    archives = [
        np.arange(3),
        images.transpose(0, 3, 1, 2),
        np.arange(3) - 5,
        images * np.nan,
        np.zeros(3, np.int32),
        images.astype("f8"),
    ]
    toml = built_in._read(_written(home / "toml" / "p.toml", PLAN.encode())).model_dump(mode="json")
    noise, board = st.binary(max_size=300), tomllib.loads(BOARD)
    sent, _ = submit(valid.run, home / "row.zip", Submission(paper="there", authors="words"))

    def safe(*seeds: bytes) -> st.SearchStrategy[bytes]:
        return inputs.tensors(list(seeds)) | inputs.damaged([*seeds]) | inputs.damaged([*seeds, *pickles[:8]]) | noise

    def torches(*seeds: bytes) -> st.SearchStrategy[bytes]:
        return inputs.damaged([*seeds, *pickles]) | st.sampled_from(pickles) | inputs.damaged([*(seeds or pickles[:2])]) | noise

    return {
        "card": Reader("card.json", read_card, inputs.documents([card], inputs.as_json)),
        "plan": Reader("p.toml", valid.plan, inputs.documents([toml], inputs.as_toml) | inputs.damaged([PLAN.encode()])),
        "board": Reader("b.toml", valid.board, inputs.documents([board], inputs.as_toml) | inputs.damaged([BOARD.encode()])),
        "submission": Reader("row.zip", valid.submission, inputs.damaged([sent.read_bytes()]) | noise),
        "training": Reader("train.json", _record, inputs.documents([record], inputs.as_json)),
        "history": Reader("train.json", read_history, inputs.documents([record], inputs.as_json)),
        "measurement": Reader("path-1a.json", _measurement, inputs.documents([MEASUREMENT], inputs.as_json)),
        "records": Reader("samples.parquet", archive.read_records, inputs.damaged([rows]) | noise),
        "archive": Reader("archive.safetensors", _archive, safe(examples, weights)),
        "examples": Reader("z.npz", _examples, inputs.npzs(["ids", "z"], archives, valid.marker)),
        "npz": Reader("d.npz", valid.dataset, inputs.npzs(["x", "y"], arrays, valid.marker) | noise),
        "weights": Reader("w.safetensors", load_weights, safe(weights, examples)),
        "checkpoint": Reader("w.pt", load_weights, torches()),
        "state": Reader("state.pt", valid.state, torches(state)),
        "unit": Reader("unit.safetensors", valid.read_unit, safe(unit, examples)),
    }  # fmt: skip


def _record(path: Path) -> Any:
    return training_record(str(path.parent))


def _measurement(path: Path) -> Any:
    """What is read is drawn, too."""
    found = read_measurement(path)
    return found, [draw(view.figure) for view in views(found, {})]


def _archive(path: Path) -> Any:
    return archive.read_archive(path, (1, 8, 8), 360)


def _examples(path: Path) -> Any:
    return archive.read_examples(path, (1, 8, 8), 360)


def attempt(reader: Reader, content: bytes, folder: Path) -> str:
    """What became of one input: the class of the refusal, or "read"."""
    path = _written(folder / reader.file, content)
    try:
        reader.read(path)
    except GauntletError as error:
        return type(error).__name__ if str(error) else "empty refusal"
    return "read"


def _written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path

"""JSON of anybody: what is read can be computed with, else it is a ValueError."""

import json
from pathlib import Path

import pytest

from bench.core import device
from bench.errors import BadInput
from bench.files import parse_json, read_json
from bench.report.history import read_history
from bench.results.measurement import read_measurement
from bench.runs.cost import Prices

ENDLESS = "9" * 400
"""An integer that is no float."""


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "-Infinity",
        "1e999",
        ENDLESS,
        f"-{ENDLESS}",
        "9" * 9999,
        "[" * 99_999,
        "[" * 101 + "]" * 101,
        "",
        "{",
    ],
)
def test_what_nothing_can_be_done_with_is_no_json(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_json(text)


@pytest.mark.parametrize("value", [10**300, -(10**300), 1e308, 0, -0.5, None, True, [[]], "\U0001f600", {"a": [1, {}]}])
def test_everything_else_is_read_as_it_is(value: object, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(value))
    assert read_json(path) == value
    with pytest.raises(ValueError, match="bytes"):
        read_json(path, 0)


def test_no_reader_computes_with_an_endless_number(tmp_path: Path) -> None:
    row = tmp_path / "row"
    row.mkdir()
    own = device.describe(device.pick("cpu"))
    training = f'{{"seconds": {ENDLESS}, "epochs": 3, "device": "{own}"}}'
    (row / "train.json").write_text(
        f'{{"defense": "fast_at", "arch": "a", "dataset": "digits", "settings": {{}}, "training": {training}, '
        f'"history": [{{"clean": 0.5, "loss": {ENDLESS}}}]}}'
    )
    with pytest.raises(BadInput, match=r"holds no history.*too large"):
        read_history(row / "train.json")
    Prices(tmp_path, "cpu")
    record = {"defense": "a", "arch": "a", "dataset": "b", "settings": [], "training": {"device": own}}
    (row / "train.json").write_text(json.dumps(record))
    Prices(tmp_path, "cpu")
    (row / "path-1a.json").write_text(f'{{"schema_version": 1, "values": {{"a": {ENDLESS}}}}}')
    with pytest.raises(BadInput, match="too large"):
        read_measurement(row / "path-1a.json")

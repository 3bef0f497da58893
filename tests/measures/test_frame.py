"""What every measure has in common: files, keys, interruptions, and what a user can get wrong."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bench.cli.commands import app
from bench.errors import BadInput, GauntletError, UnknownName
from bench.evaluation import Execution
from bench.files import sha256
from bench.measures import MeasureRequest, find_measurements, get_measure, measure_names, measured, read_measurement, render
from bench.measures.probe import Probe


def ask(run: Path, measure: str, *, fresh: bool = False, **options: object) -> tuple[object, Path, str]:
    return measured(MeasureRequest.of(model=run, measure=measure, options=options), Execution(quiet=True, fresh=fresh))


@pytest.fixture
def run(copied: Callable[[Path], Path], tmp_path: Path) -> Path:
    """A run folder of one's own."""
    return copied(tmp_path)


def test_a_measure_writes_canonical_json_and_arrays_beside_the_cards(run: Path) -> None:
    found, path, told = ask(run, "path", n=20, steps=3)
    assert path.parent == run / "measures"
    assert not told
    assert find_measurements(run) == [path]
    assert read_measurement(path) == found
    content = json.loads(path.read_text())
    assert path.read_text() == json.dumps(content, indent=1) + "\n"
    assert content["settings"] == {"n": 20, "steps": 3, "step": 0.1}
    assert (content["model"], content["data"], content["norm"], content["eps"]) == ("fast_at", "digits", "linf", "0.2")
    with np.load(path.parent / content["arrays"]["file"], allow_pickle=False) as arrays:
        assert (
            {name: [*arrays[name].shape] for name in arrays}
            == content["arrays"]["shapes"]
            == {"loss": [20, 5], "margin": [20, 5]}
        )
        mean = content["curves"]["loss"]["mean"]
        np.testing.assert_allclose(arrays["loss"].mean(0), mean, rtol=1e-6)
    assert sorted(file.name for file in path.parent.iterdir()) == sorted([path.name, content["arrays"]["file"]])


def test_asked_again_it_is_read_and_made_anew_it_has_the_same_bytes(run: Path) -> None:
    _, path, _ = ask(run, "path", n=20, steps=3)
    digests = {file.name: sha256(file) for file in path.parent.iterdir()}
    assert ask(run, "path", n=20, steps=3)[2]
    _, again, told = ask(run, "path", n=20, steps=3, fresh=True)
    assert again == path
    assert not told
    assert {file.name: sha256(file) for file in path.parent.iterdir()} == digests
    # In other batches the bits of a sum may differ, and what is told does not.
    measured(
        MeasureRequest.of(model=run, measure="path", options={"n": 20, "steps": 3}),
        Execution(quiet=True, batch_size=16, fresh=True),
    )
    other = read_measurement(path)
    for name, value in json.loads(path.read_text())["values"].items():
        assert other.values[name] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("options", [{"n": 21}, {"steps": 4}, {"step": 0.2}])
def test_another_question_has_a_file_of_its_own(run: Path, options: dict[str, object]) -> None:
    _, path, _ = ask(run, "path", n=20, steps=3)
    assert ask(run, "path", **{"n": 20, "steps": 3, **options})[1] != path


@pytest.mark.parametrize("harm", ["cut", "gone", "another schema", "not JSON"])
def test_a_damaged_measurement_is_made_anew(run: Path, harm: str) -> None:
    _, path, _ = ask(run, "path", n=20, steps=3)
    before, arrays = path.read_bytes(), path.with_suffix(".npz")
    if harm == "cut":
        arrays.write_bytes(arrays.read_bytes()[:50])
    elif harm == "gone":
        arrays.unlink()
    else:
        path.write_text('{"schema_version": 99}' if harm == "another schema" else "{")
    assert not ask(run, "path", n=20, steps=3)[2]
    assert path.read_bytes() == before


def test_an_interrupted_measure_goes_on_from_its_parts(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.measures.each import linearity

    whole = ask(run, "linearity", n=20, steps=2, radii=[0.25, 0.5, 1.0])
    plain, calls = linearity._row, []

    def row(exact: Probe, share: float, ascent: object) -> torch.Tensor:
        calls.append(share)
        if calls == [0.25, 0.5]:
            raise KeyboardInterrupt
        return plain(exact, share, ascent)  # type: ignore[arg-type]

    monkeypatch.setattr(linearity, "_row", row)
    with pytest.raises(KeyboardInterrupt):
        ask(run, "linearity", n=20, steps=2, radii=[0.25, 0.5, 1.0], fresh=True)
    parts = whole[1].with_suffix(".parts")
    assert [file.name for file in parts.glob("*.npy")] == ["radius-0.25.npy"]
    before = whole[1].read_bytes()
    whole[1].unlink()
    assert ask(run, "linearity", n=20, steps=2, radii=[0.25, 0.5, 1.0])[0] == whole[0]
    assert calls == [0.25, 0.5, 0.5, 1.0]
    assert whole[1].read_bytes() == before
    assert not parts.exists()


def test_who_waited_for_another_reads_what_it_made(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.measures import session

    first = ask(run, "path", n=20, steps=3)
    made = {path: path.read_bytes() for path in first[1].parent.iterdir()}
    for path in made:
        path.unlink()
    alone = session.alone

    @contextmanager
    def after_another(place: Path, tell: Callable[[str], None]) -> Iterator[None]:
        with alone(place, tell):
            for path, content in made.items():
                path.write_bytes(content)
            yield

    monkeypatch.setattr(session, "alone", after_another)
    assert ask(run, "path", n=20, steps=3) == (*first[:2], session.READ)


def test_a_damaged_part_is_computed_again(run: Path, tmp_path: Path) -> None:
    from bench.files import Reporter

    probe = Probe(
        torch.nn.Identity(), torch.zeros(1, 1, 1, 1), torch.zeros(1), torch.zeros(1), 2, None, 0, 1, {},
        Reporter("", 1, quiet=True), tmp_path / "parts", lambda: None,
    )  # type: ignore[arg-type]  # fmt: skip
    assert probe.part("a", lambda: torch.ones(2)).tolist() == [1, 1]
    (tmp_path / "parts" / "a.npy").write_bytes(b"\x93NUMPY and no more")
    assert probe.part("a", lambda: torch.full((2,), 2.0)).tolist() == [2, 2]


def test_samples_are_class_balanced_and_a_prefix_of_more(run: Path) -> None:
    from bench.measures.session import _samples

    few, more = (_samples("digits", "test", [{}], n) for n in (20, 40))
    assert few.y.bincount().tolist() == [2] * 10
    assert torch.equal(few.ids, more.ids[:20])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["RUN", "pth"], "did you mean 'path'"),
        (["RUN", "path", "--set", "stpes=4"], "did you mean 'steps'"),
        (["RUN", "path", "--set", "steps=0"], "steps = 0"),
        (["RUN", "path", "--n", "99999"], "99999"),
        (["RUN", "path", "--split", "tset"], "split = 'tset'"),
        (["path"], "name a model before it"),
        (["nowhere", "path"], "nowhere"),
        (["RUN", "RUN", "--set", "n"], "unknown measure"),
    ],
)  # fmt: skip
def test_what_a_user_gets_wrong_is_told(fast_run: Path, words: list[str], told: str) -> None:
    outcome = CliRunner().invoke(app, ["measure", *(str(fast_run) if word == "RUN" else word for word in words)])
    assert isinstance(outcome.exception, GauntletError)
    assert told in str(outcome.exception)
    assert not (fast_run / "measures").exists()


def test_a_network_that_answers_at_random_is_refused(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), _Noisy(), torch.nn.Linear(64, 10))
    with pytest.raises(BadInput, match="at random"):
        measured(MeasureRequest.of(model=net, measure="path", options={"n": 10}), Execution(tmp_path, quiet=True))


class _Noisy(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn_like(x)


def test_a_measurement_of_a_stranger_is_read_with_care(run: Path) -> None:
    _, path, _ = ask(run, "path", n=20, steps=3)
    content = json.loads(path.read_text())
    for harm in (
        {"values": {"a": "text"}}, {"values": {"a": 1e999}}, {"notes": ["two\nlines"]},
        {"curves": {"c": {"a": [1, 2], "b": [1]}}},
        {"arrays": {"file": "../../x.npz", "sha256": "", "shapes": {}}}, {"extra": 1},
    ):  # fmt: skip
        path.write_text(json.dumps({**content, **harm}))
        with pytest.raises(BadInput):
            read_measurement(path)
    path.write_text(json.dumps({**content, "values": {"\x1b[31mred": 1.0}}))
    assert "\x1b" not in render(read_measurement(path), path)


def test_measures_are_listed_with_their_options() -> None:
    listed = CliRunner().invoke(app, ["list", "measures"]).output
    for name in measure_names():
        assert name in listed
        assert "n" in get_measure(name).parameters
    with pytest.raises(UnknownName, match="did you mean"):
        get_measure("linearty")

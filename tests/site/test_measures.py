"""What was measured on a network stands on the page of its row; a stranger's file is text, small, and stops nothing."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from bench.errors import BadInput
from bench.evaluation import Execution
from bench.files import sha256
from bench.measures import MeasureRequest, find_measurements, measured, read_measurement
from bench.pictures import draw
from bench.pictures.paper import save
from bench.report import views
from bench.report.plots import plot
from bench.site import write_report
from bench.site.measures import MOST, TITLES

TINY = {
    "kernel": {"n": 10, "steps": 1}, "curvature": {"n": 20, "steps": 1, "top": 3, "products": 5, "draws": 1},
    "linearity": {"n": 10, "steps": 1, "radii": [0.5, 1.0]}, "lipschitz": {"n": 4, "steps": 1, "radii": [0.0, 1.0]},
    "path": {"n": 10, "steps": 3}, "scattering": {"n": 10, "steps": 1, "radii": [0.5, 1.0], "distances": [0.01, 0.1]},
    "landscape": {"n": 10, "steps": 1, "points": 3, "dimensions": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def results(shown_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board of one row, on whose network everything was measured that one network has."""
    home = tmp_path_factory.mktemp("measured") / "results"
    run = home / "digits" / "linf-0.2" / "one"
    shutil.copytree(shown_results / "digits" / "linf-0.2" / "one", run)
    for name, options in TINY.items():
        measured(MeasureRequest.of(model=run, measure=name, options=options), Execution(quiet=True))
    return home


def page_of(results: Path, out: Path) -> str:
    write_report(results, out, galleries=False, quiet=True)
    (page,) = (out / "row").iterdir()
    assert page.stat().st_size < 300 * 1024
    return page.read_text(encoding="utf-8")


def test_a_defense_that_was_added_is_not_in_what_was_measured(results: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(results, tmp_path / "results"))
    (path,) = home.rglob("card.json")
    card = json.loads(path.read_text())
    alone = "Of the network by itself, without the rfi that this row adds at test time"
    assert alone not in page_of(home, tmp_path / "without")
    path.write_text(json.dumps({**card, "model": {**card["model"], "test_time": "rfi"}, "measures": []}))
    assert page_of(home, tmp_path / "with").count(alone) == len(TINY)


def test_every_measure_is_told_and_drawn(results: Path, tmp_path: Path) -> None:
    page = page_of(results, tmp_path)
    sections = re.findall(r'<section class="measure">(.*?)</section>', page, re.S)
    assert len(sections) == len(TINY)
    for name in TINY:
        (own,) = [text for text in sections if f"<h3>{TITLES[name]}" in text]
        assert "<svg" in own
        assert re.search(r"<p>[^<]*\d[^<]*</p>", own), f"{name} says no number"
        (path,) = [path for path in find_measurements(results) if path.name.startswith(name)]
        for value in read_measurement(path).values.values():
            assert value is None or f'<td class="r">{value:.4g}</td>' in own


def test_pictures_show_the_numbers_of_the_document(results: Path, tmp_path: Path) -> None:
    (path,) = [path for path in find_measurements(results) if path.name.startswith("path")]
    found = read_measurement(path)
    first = views(found, {})[0].figure
    assert [point[1] for point in first.curves[1].points] == pytest.approx(found.curves["loss"]["mean"], rel=1e-5)  # type: ignore[union-attr]
    assert draw(plot("measure", [f"{path}:margin"])) != draw(plot("measure", [str(path)]))
    save(plot("measure", [str(path)]), tmp_path / "path.pdf")
    with pytest.raises(BadInput, match="no picture that is called 'nothing'; it has: Loss along the attack"):
        plot("measure", [f"{path}:nothing"])
    with pytest.raises(BadInput, match="cannot read"):
        plot("measure", [str(tmp_path / "gone.json")])


@pytest.fixture
def spoiled(results: Path, tmp_path: Path) -> Path:
    """A board whose measurements somebody may change."""
    return Path(shutil.copytree(results, tmp_path / "results"))


HARMS = ["not JSON", "another schema", "a pipe", "other arrays", "arrays gone", "other weights", "unknown keys"]


@pytest.mark.parametrize("harm", HARMS)
def test_what_is_no_measurement_of_the_row_is_named_and_stops_nothing(harm: str, spoiled: Path, tmp_path: Path) -> None:
    import os

    (path,) = [path for path in find_measurements(spoiled) if path.name.startswith("landscape")]
    content = json.loads(path.read_text())
    if harm == "a pipe":
        path.unlink()
        os.mkfifo(path)
    elif harm == "other arrays":
        np.savez(path.with_suffix(".npz"), clean=np.zeros((2, 2)))
    elif harm == "arrays gone":
        path.with_suffix(".npz").unlink()
    else:
        changes = {"another schema": {"schema_version": 9}, "other weights": {"digest": "0" * 64}, "unknown keys": {"x": 1}}
        path.write_text("{" if harm == "not JSON" else json.dumps({**content, **changes[harm]}))
    page = page_of(spoiled, tmp_path / "out")
    assert page.count('<section class="measure">') == len(TINY) - 1
    assert f"measures/{path.name} is" in page
    assert str(spoiled) not in page


def test_of_a_document_that_is_not_here_the_numbers_of_the_card_are_shown(spoiled: Path, hostile: str, tmp_path: Path) -> None:
    (path,) = [path for path in find_measurements(spoiled) if path.name.startswith("path")]
    (card,) = spoiled.glob("*/*/*/*/card.json")
    whole = page_of(spoiled, tmp_path / "whole")
    said = f"<dd>clean loss {read_measurement(path).values['clean loss']:.4g}, final loss"
    assert "measures</b>" in whole
    assert whole.count(said) == 1  # among the facts of the card
    assert "As the card states it" not in whole
    path.unlink()
    content = json.loads(card.read_text())
    (short,) = [short for short in content["measures"] if short["file"] == path.name]
    short["values"][hostile] = 1.0
    card.write_text(json.dumps(content))
    page = page_of(spoiled, tmp_path / "out")
    sections = re.findall(r'<section class="measure">(.*?)</section>', page, re.S)
    (own,) = [text for text in sections if f"<h3>{TITLES['path']}" in text]
    assert (len(sections), "<svg" in own) == (len(TINY), False)
    assert "The mean loss climbs from" in own
    assert "As the card states it; its document is not here" in own
    assert f'<td class="r">{short["values"]["final loss"]:.4g}</td>' in own
    assert "not here" in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "does not hold" not in page
    path.write_text("{")
    page = page_of(spoiled, tmp_path / "damaged")
    assert "does not hold: measures: measures/" in page
    assert page.count('<section class="measure">') == len(TINY) - 1


def test_arrays_that_are_not_as_promised_are_not_drawn(spoiled: Path, tmp_path: Path) -> None:
    """Their digest agrees, because whoever wrote them wrote the document, too."""
    (path,) = [path for path in find_measurements(spoiled) if path.name.startswith("landscape")]
    content, arrays = json.loads(path.read_text()), path.with_suffix(".npz")
    hostile = {
        "objects": {"clean": np.array([{}], dtype=object)},
        "words": {"clean": np.array([["a", "b"]] * 3), "position": np.arange(3.0)},
        "numbers": {"clean": np.full((3, 3), np.inf), "loss": np.full((3, 3), 1e300), "position": np.full(3, np.nan)},
        "deep": {"clean": np.zeros((1, 1, 1, 1, 3, 3)), "position": np.zeros(0)},
    }  # fmt: skip
    for number, (_, given) in enumerate(hostile.items()):
        np.savez(arrays, **given)  # type: ignore[arg-type]
        content["arrays"] |= {"sha256": sha256(arrays), "shapes": {name: array.shape for name, array in given.items()}}
        path.write_text(json.dumps(content))
        assert 'on a plane."' not in page_of(spoiled, tmp_path / f"out{number}")


def test_a_strangers_document_is_text_and_stays_small(spoiled: Path, hostile: str, tmp_path: Path) -> None:
    (known,) = [path for path in find_measurements(spoiled) if path.name.startswith("path")]
    content = json.loads(known.read_text())
    odd = [1e300, -1e300, 1e-320, 1 + 1e-16, 1.0, 0.0, None, 5e-324]
    content["arrays"] = None
    content["values"] = {hostile: 1e308, "clean loss": None, **{f"{hostile} {k}": k / 7 for k in range(500)}}
    content["curves"] = {
        name: dict.fromkeys(("step", "mean", "50%", "5%", "95%"), odd * 200) for name in ("loss", "margin", hostile)
    }
    for number in range(2 * MOST):
        content["measure"] = ("path", hostile, "curvature", "kernel")[number % 4]
        (known.parent / f"a{number:03d}.json").write_text(json.dumps(content))
    page = page_of(spoiled, tmp_path / "out")
    assert page.count('<section class="measure">') == MOST
    assert "more measurements lie in measures/" in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_numbers_that_no_scale_can_show_make_no_picture_and_no_error(results: Path) -> None:
    (path,) = [path for path in find_measurements(results) if path.name.startswith("path")]
    found = read_measurement(path)
    for column in ([None] * 3, [1e300] * 3, [2.0] * 3, [1e-320, 0.0, 5e-324], [1.0, 1.0 + 2e-16, 1.0], [-1e14, 0.0, 1e14]):
        for step in ([0, 1, 2], [1.0, 1.0, 1.0], [None, 1, 2], [-5.0, 0.0, 5.0]):
            curve = {"step": step, "mean": column, "50%": column, "5%": column, "95%": column, "clean": column}
            for name in ("path", "curvature", "scattering", "mine"):
                odd = found.model_copy(
                    update={"measure": name, "curves": dict.fromkeys(("loss", "eigenvalues", "over the distance", "x"), curve)}
                )
                assert all("nan" not in draw(view.figure) for view in views(odd, {}))

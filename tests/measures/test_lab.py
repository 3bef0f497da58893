"""The lab as a command, and its data set and networks as any others."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from bench import data, evaluate, train
from bench.cli.commands import app
from bench.errors import BadInput, UnknownName
from bench.evaluation import Execution
from bench.files import sha256
from bench.measures.lab import over_seeds, performed
from bench.models import build
from bench.science.lab.linear import Linear, margins
from bench.science.lab.structured import Learner, World, as_images

SMALL = {"n": 4, "radii": [0, 1], "rates": [100.0], "steps": 30, "patches": 20}


def test_a_structured_experiment_has_a_file_with_intervals(tmp_path: Path) -> None:
    words = [word for key, value in SMALL.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    outcome = CliRunner().invoke(app, ["lab", "structured", "--seeds", "2", "--results", str(tmp_path), "--json", *words])
    assert outcome.exit_code == 0, outcome.exception
    found = json.loads(outcome.stdout)
    (path,) = (tmp_path / "lab").glob("*.json")
    assert json.loads(path.read_text()) == found
    assert found["settings"]["seeds"] == 2
    over = found["curves"]["over eps"]
    assert over["eps"] == [0, 0.125]
    for mean, low, high in zip(over["A"], over["A, low"], over["A, high"], strict=True):
        assert low < mean < high
    before = sha256(path)
    performed("structured", SMALL, 0, 2, Execution(tmp_path, quiet=True, fresh=True))
    assert sha256(path) == before


def test_a_linear_experiment_finds_its_threshold(tmp_path: Path) -> None:
    options = {"n": 100, "size": 4, "radii": [0.5, 0.98, 1.02], "rays": 20}
    found, _, _ = performed("linear", options, 0, 2, Execution(tmp_path, quiet=True))
    weights = found.curves["over eps"]["|w|_1"]
    assert weights[0] > weights[1] > 1e-4
    assert weights[2] < 1e-6
    assert found.values["version spaces are nested"] == 1
    assert performed("linear", options, 0, 2, Execution(tmp_path, quiet=True)).told


def test_the_order_of_radii_changes_nothing(tmp_path: Path) -> None:
    """The least and the largest, and whether spaces are nested, go by places."""
    rising, falling = ({**SMALL, "radii": radii} for radii in ([0.0, 1.0], [1.0, 0.0, 1.0]))
    one, other = (
        performed("structured", options, 0, 2, Execution(tmp_path / str(turn), quiet=True)).found
        for turn, options in enumerate((rising, falling))
    )
    assert one.values == other.values


def test_intervals_over_seeds_are_those_of_student() -> None:
    """Three values 1, 2, 3: mean 2, t(0.975, 2) = 4.3027, so 2 +- 4.3027 / sqrt(3)."""
    mean, low, high = over_seeds(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    assert float(mean) == 2
    assert (float(low), float(high)) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-4)
    assert over_seeds(torch.ones(1)).low.isnan()


def test_what_a_user_gets_wrong_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'linear'"):
        performed("liner", {}, 0, 1, Execution(tmp_path))
    with pytest.raises(UnknownName, match="did you mean 'patches'"):
        performed("structured", {"patchs": 3}, 0, 1, Execution(tmp_path))
    with pytest.raises(BadInput, match="act = 'tanh'"):
        performed("structured", {"act": "tanh"}, 0, 1, Execution(tmp_path))
    with pytest.raises(BadInput, match="raise size"):
        performed("structured", {"classes": 3}, 0, 1, Execution(tmp_path, quiet=True))


def test_structured_data_are_those_of_the_lab() -> None:
    found = data.load("structured", "test")
    assert (found.family, found.shape, found.classes, len(found)) == ("structured", (1, 170, 4), 2, 500)
    train_split = data.load("structured", "train")
    assert not {x.numpy().tobytes() for x in found.x} & {x.numpy().tobytes() for x in train_split.x}
    assert data.load("structured", "test").digest == found.digest


def test_the_network_of_patches_is_that_of_the_lab() -> None:
    world, learner = World(), Learner()
    net = build("patches", (1, 170, 4), 2)
    x, _ = world.draw(6, torch.Generator().manual_seed(0))
    w = net.weight.detach().double().flatten(0, 1)[None]
    torch.testing.assert_close(net(as_images(x)).detach().double(), learner.logits(w, x[None])[0], rtol=1e-4, atol=1e-6)


def test_a_linear_network_is_broken_exactly_where_its_closed_form_says(tmp_path: Path) -> None:
    """Two classes: the robust accuracy of an evaluation is that of the margins less eps |w|_1."""
    run = train(
        "standard", dataset="structured", model="linear", settings={"epochs": 3, "lr": 0.1}, results=tmp_path, quiet=True
    )
    card, _ = evaluate(run, plan_name="smoke", n=100, results=tmp_path, quiet=True)
    from bench.models import resolve

    layer = resolve(str(run), (1, 170, 4), 2).net[1]
    weight, bias = layer.weight.double(), layer.bias.double()
    model = Linear(weight[1] - weight[0], bias[1] - bias[0])
    x, y = data.load("structured", "test").batch(torch.arange(100))
    lead = margins(model, x.flatten(1).double(), 2.0 * y.double() - 1, 0.03125)
    # The box [0, 1] is never in the way here.
    assert card.robust_accuracy == pytest.approx(float((lead > 0).double().mean()), abs=0.011)
    assert card.clean_accuracy > 0.9

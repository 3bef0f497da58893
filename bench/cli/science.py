"""The commands that measure networks and run the lab; torch is imported only inside them."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.cli import options as opt
from bench.errors import BadInput

science = typer.Typer()
_WORDS = typer.Argument(help="Models, as for evaluate, then the name of a measure (`gauntlet list measures`).")
_COUNT = typer.Option("--n", help="Samples, all classes alike: the option n of the measure [default: 100 or 250].")
_BATCH = typer.Option("--batch-size", min=1, help="Images at a time; changes what is rounded, and nothing else.")
_FRESH = typer.Option("--fresh", help="Measure anew what is there already.")
_SPLIT = typer.Option("--split", help="test, or train for the images of its training.")


@science.command()
def measure(
    words: Annotated[list[str], _WORDS],
    setting: opt.Setting = None,
    n: Annotated[int | None, _COUNT] = None,
    dataset: opt.Dataset = None,
    split: Annotated[str, _SPLIT] = "test",
    norm: opt.Norm = None,
    eps: opt.Eps = None,
    seed: opt.Seed = 0,
    plugin: opt.Plugin = None,
    results: opt.Results = opt.RESULTS,
    device: opt.Device = "auto",
    batch_size: Annotated[int | None, _BATCH] = None,
    fresh: Annotated[bool, _FRESH] = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Measure kernels, curvature, landscapes and the like of trained models; what comes of it is written beside the cards."""
    from bench.evaluation import Execution
    from bench.measures import MeasureRequest, get_measure, measured, render

    *models, name = words
    get_measure(name)
    if not models:
        raise BadInput(f"measure {name!r} of what? name a model before it, as in: gauntlet measure RUN {name}")
    opt.load(plugin)
    options = opt.settings_of([*(setting or []), *([] if n is None else [f"n={n}"])])
    against = options.pop("against", None)
    execution = Execution(results, device, batch_size, opt.quiet_for(quiet, as_json), fresh)
    for model in models:
        request = MeasureRequest.of(
            model=model, measure=name, options=options, against=against, dataset=dataset, split=split, norm=norm, eps=eps,
            seed=seed,
        )  # fmt: skip
        found, path, told = measured(request, execution)
        opt.tell(found.to_json().rstrip() if as_json else render(found, path, told))


@science.command()
def lab(
    name: Annotated[str, typer.Argument(help="linear or structured.")],
    setting: opt.Setting = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds, from --seed on.")] = 5,
    seed: opt.Seed = 0,
    results: opt.Results = opt.RESULTS,
    fresh: Annotated[bool, _FRESH] = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Run an experiment where everything can be worked out: linear classifiers, or patches with robust and other features."""
    from bench.evaluation import Execution
    from bench.measures import performed, render
    from bench.plugins import read_value

    given = {key: read_value(text) for key, text in opt.settings_of(setting or []).items()}
    execution = Execution(results, quiet=opt.quiet_for(quiet, as_json), fresh=fresh)
    found, path, told = performed(name, given, seed, seeds, execution)
    opt.tell(found.to_json().rstrip() if as_json else render(found, path, told))

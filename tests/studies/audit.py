"""How often the audit fails honest rows, and catches rows whose attacks were weakened or whose records were edited.

    python tests/studies/audit.py                  MNIST, a row evaluated here with each forgery, audited 200 times
    python tests/studies/audit.py --kind default   the audits on another kind of processor (kernels without AVX)

Attempts of every survivor are made again once; audits are draws of --rerun samples from them, so that rates are of audits.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--run", type=Path, default=Path("results/mnist/linf-0.3/fast_at-mnist_fast-s0-c6a288c2"))
parser.add_argument("--plan", default="fast")
parser.add_argument("--n", type=int, default=300)
parser.add_argument("--rerun", type=int, default=50)
parser.add_argument("--audits", type=int, default=200)
parser.add_argument("--kind", default="", help="ATEN_CPU_CAPABILITY of the audits")
parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)

FORGERIES = ("honest", "fewer steps", "step 1e-9", "one restart", "examples dropped", "margins invented")


def forged(name: str, home: Path, options: argparse.Namespace) -> Path:
    """A card whose plan says one thing and whose attacks did another."""
    import numpy as np
    import pandas as pd

    from bench import evaluate
    from bench.evaluation import engine, target

    plain = engine.Evaluation._batch

    def weaker(self: engine.Evaluation, work: target.Work) -> object:
        run = work.run
        parameters = dict(run.parameters)
        if name == "fewer steps" and "steps" in parameters:
            parameters["steps"] = max(parameters["steps"] // 5, 1)
        if name == "step 1e-9" and "step" in parameters:
            parameters["step"] = 1e-9
        if name == "one restart" and run.name.startswith("restart") and run.name != "restart 0":
            run = run._replace(stream=("restart", "0"))
        return plain(self, work._replace(run=run._replace(parameters=parameters)))

    engine.Evaluation._batch = weaker  # type: ignore[assignment]
    try:
        _, path = evaluate(
            str(options.run), plan_name=options.plan, n=options.n, results=home, quiet=True, device_name="cpu", fresh=True
        )  # fmt: skip
    finally:
        engine.Evaluation._batch = plain  # type: ignore[method-assign]
    rows = pd.read_parquet(path.parent / "samples.parquet")
    rng = np.random.default_rng(0)
    if name == "examples dropped":
        lost = rows.loc[rows["broken"] & (rows["run"] != ""), "id"].unique()
        saved = rng.choice(lost, max(len(lost) // 3, 1), replace=False)
        hit = rows["id"].isin(saved) & (rows["run"] != "")
        rows.loc[hit & rows["broken"], "margin"] = -rng.random(int((hit & rows["broken"]).sum()))
        rows.loc[hit, "broken"] = False
    if name == "margins invented":
        rows["margin"] += rng.normal(0, 1e-3, len(rows))
    kept = path.parent / "forged.parquet"
    rows.to_parquet(kept)
    return path


def worker(options: argparse.Namespace) -> None:
    """Audit one row many times."""
    import numpy as np
    import pandas as pd
    import torch

    from bench.audit import Row, judge, rerun
    from bench.core import device
    from bench.files import Reporter
    from bench.results import read_card
    from bench.verify import Given, load_data, load_model, read_evidence

    path = options.home
    card, given = read_card(path), Given(model=str(options.run), device="cpu")
    evidence = read_evidence(card, path.parent)
    samples = load_data(card, path, evidence, given, [])
    assert samples is not None
    under = load_model(card, path, samples, given, [])
    assert under is not None
    records = pd.read_parquet(path.parent / "forged.parquet")
    survivors = sorted({*samples.ids.tolist()} - {*records["id"][records["broken"]].tolist()})
    places = torch.isin(samples.ids, torch.tensor(survivors)).nonzero().squeeze(1)
    with device.exact_float32(), Reporter("audit", 1, quiet=True) as report:
        row = Row(card, card.dataset, under, samples, records, torch.zeros(len(samples), dtype=torch.bool), 100, report)
        rows = rerun(row, samples.select(places)).rows
    rng, failed, exact, fell = np.random.default_rng(1), 0, 0, 0
    for _ in range(options.audits):
        chosen = rng.choice(survivors, min(options.rerun, len(survivors)), replace=False)
        found = judge(rows[rows["id"].isin(chosen)])
        failed, exact = failed + bool(found.problems), exact + found.exact
    fell = int(rows.groupby("id")["broken"].any().sum())
    told = f"{failed:4d} of {options.audits} fail, {exact:4d} repeat; {fell} of {len(survivors)} survivors fall here\n"
    sys.stdout.write(f"{options.worker:18} {told}")


def main() -> None:
    options = parser.parse_args()
    if options.worker:
        worker(options)
        return
    told = options.kind or "the same"
    about = f"{options.run.name}, plan {options.plan}, n {options.n}, {options.rerun} samples an audit, processor: {told}\n"
    sys.stdout.write(about)
    sys.stdout.flush()
    for name in FORGERIES:
        with tempfile.TemporaryDirectory() as home:
            copied = Path(home) / options.run.name
            copied.mkdir()
            for file in ("best.safetensors", "train.json"):
                (copied / file).write_bytes((options.run / file).read_bytes())
            path = forged(name, Path(home), argparse.Namespace(**{**vars(options), "run": copied}))
            environment = {**os.environ, **({"ATEN_CPU_CAPABILITY": options.kind} if options.kind else {})}
            command = [sys.executable, __file__, *sys.argv[1:], "--worker", name, "--home", str(path), "--run", str(copied)]
            subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()

"""Random noise: the control that every attack has to beat (Carlini et al. 2019, section 4)."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from bench.attack import Decision, Live, Rng, ThreatModel, attack


@attack("random_noise", access="decision", norms={"linf", "l2", "l1"})
def random_noise(
    model: Decision,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    rng: Rng,
    *,
    queries: Annotated[int, Field(ge=1)] = 10_000,
    corners: Annotated[float, Field(ge=0, le=1)] = 0.5,
) -> Tensor:
    """Independent draws from the ball; `corners` is the share taken from its far points, evenly spread over the run."""
    live = Live(x)
    for query in range(queries):
        corner = int((query + 1) * corners) > int(query * corners)
        z = threat.random_start(x, rng.at("draw", query), corner=corner)
        wrong = model.labels(z) != y
        live.keep(z, wrong.float(), wrong)
        model, x, y, rng = live.drop(model, x, y, rng)
        if not len(live):
            break
    return live.result

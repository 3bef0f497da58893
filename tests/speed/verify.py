"""What `gauntlet verify` takes beyond the forward passes: `python tests/speed/verify.py [--n 10000]`; needs CIFAR-10.

A card of a network as it was initialised, with a made-up archive that holds an example, the clean image, of every sample.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from bench import evaluate
from bench.core.views import forward
from bench.data.datasets import load
from bench.models import architectures, resolve
from bench.models.checkpoint import save_weights
from bench.results.archive import write_archive
from bench.verify.cards import verify_card
from bench.verify.loading import Given

PLAN = '[[attacks]]\nattack = "random_noise"\nparameters = { queries = 1 }\n'


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--arch", default="preact_resnet18?width=4")
    given = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="verify-"))
    torch.manual_seed(0)
    weights = home / "w.safetensors"
    save_weights(weights, architectures.build(given.arch, (3, 32, 32), 10, None), {"arch": given.arch})
    (home / "plan.toml").write_text(PLAN)
    options = {"plan_name": str(home / "plan.toml"), "results": home, "quiet": True, "device_name": "cpu"}
    _, path = evaluate(str(weights), dataset="cifar10", n=given.n, **options)
    data = load("cifar10", "test").first(given.n)
    x, _ = data.batch(torch.arange(given.n))
    content = json.loads(path.read_text())
    content["archive"] = write_archive(path.parent / "archive.safetensors", data.ids, x, {}).model_dump()
    path.write_text(json.dumps(content))
    net = resolve(str(weights), data.shape, data.classes).net
    with torch.no_grad():
        began = time.process_time()
        for part in x.split(256):
            forward(net, part)
        once = time.process_time() - began
    del x
    began = time.process_time()
    found = verify_card(path, Given(device="cpu"))
    took = time.process_time() - began
    print(f"{found.examples} examples, {given.arch}: verify {took:.2f} CPU seconds, one forward pass {once:.2f};")  # noqa: T201
    rest = took - 3 * once
    print(f"beyond its 3 passes (clean, examples, 8 bits) {rest:.2f}; verify / pass {took / once:.1f}")  # noqa: T201


if __name__ == "__main__":
    main()

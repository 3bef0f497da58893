"""What a report of many rows costs, and how much of it is reading files: rows of real records, without galleries.

Run it as `python tests/speed/report.py results/mnist/linf-0.3/fast_at-mnist_fast-s0-*/fast-*/card.json --rows 500`; with
--profile it says where the time goes.
"""

import argparse
import cProfile
import hashlib
import json
import pstats
import shutil
import tempfile
import time
from pathlib import Path

from bench.results.archive import read_tensors, write_archive
from bench.site import write_report


def many(card: Path, home: Path, rows: int) -> Path:
    """So many rows with the records and the examples of one, each as if of other weights."""
    content = json.loads(card.read_text())
    tensors, about = read_tensors(card.parent / content["archive"]["file"])
    about.pop("schema_version", None)
    for number in range(rows):
        folder = home / f"row-{number:03d}" / card.parent.name
        folder.mkdir(parents=True)
        about["model_digest"] = content["model"]["digest"] = hashlib.sha256(str(number).encode()).hexdigest()
        made = write_archive(folder / "archive.safetensors", tensors["ids"], tensors["z"], about)
        content["archive"], content["name"] = made.model_dump(), f"method-{number:03d}"
        shutil.copy(card.parent / content["records"]["file"], folder)
        (folder / "card.json").write_text(json.dumps(content))
        if (card.parents[1] / "train.json").is_file():
            shutil.copy(card.parents[1] / "train.json", folder.parent)
    return home


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("card", type=Path)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        results = many(given.card, Path(place) / "results", given.rows)
        profile, began = cProfile.Profile(), time.process_time()
        if given.profile:
            profile.enable()
        written = write_report(results, Path(place) / "out", galleries=False, quiet=True)
        profile.disable()
        spent = time.process_time() - began
        size = max(path.stat().st_size for path in (written.first.parent / "board").glob("*.html"))
        print(f"{given.rows} rows, {written.pages} pages, {size // 1024} KiB at most: {spent:.1f} CPU seconds")  # noqa: T201
        if given.profile:
            pstats.Stats(profile).sort_stats("cumulative").print_stats(45)


if __name__ == "__main__":
    main()

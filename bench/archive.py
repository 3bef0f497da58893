"""What stands beside a card: a table of every attempt, and the adversarial examples that prove the broken ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bench.card import FileInfo
from bench.errors import BadInput
from bench.files import atomic, sha256


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Tensors and a JSON header in one safetensors file; the same content gives the same bytes."""
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as part:
        # One metadata key: the library writes several in no fixed order.
        try:
            save_file(ready, part, {"about": json.dumps(about, sort_keys=True)})
        except SafetensorError as error:
            raise OSError(str(error)) from None


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header of a file written by `write_tensors`; runs no code whatever the file holds."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"{path} is not a whole safetensors file: {error}") from None
    if not isinstance(about, dict):
        raise BadInput(f"{path} has no header of ours; it was written by something else")
    return tensors, about


def write_archive(path: Path, ids: Tensor, z: Tensor, about: Mapping[str, Any]) -> FileInfo:
    """Adversarial examples z [M, C, H, W] of the samples `ids` [M], with what they were found against."""
    write_tensors(path, {"ids": ids, "z": z}, {"schema_version": 1, **about})
    return FileInfo(file=path.name, sha256=sha256(path), rows=len(ids))


def write_records(path: Path, rows: pd.DataFrame) -> FileInfo:
    """One row per sample and attempt."""
    with atomic(path) as part:
        rows.to_parquet(part, index=False, engine="pyarrow")
    return FileInfo(file=path.name, sha256=sha256(path), rows=len(rows))

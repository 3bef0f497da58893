"""What stands beside a card: a table of every attempt, and the adversarial examples that prove the broken ones."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bench.data import sources
from bench.errors import BadInput
from bench.files import atomic, opened, parse_json, regular, sha256
from bench.results.card import FileInfo

SCHEMA = 1
"""Of archives and of records; records without one are of the first."""
_VERSION = b"schema_version"
HEADER = 2**20
"""Bytes of a safetensors header at most."""
LARGEST = 2**40
"""Bytes of a file of tensors that its reader does not know the size of."""
ROWS = 20_000_000
"""Rows of the records at most."""
_ROW = 256
"""Bytes of a row of the records at most, as it is stored and in memory."""
_COLUMNS = {
    "id": pa.int64(), "label": pa.int64(), "attack": pa.string(), "run": pa.string(), "broken": pa.bool_(),
    "margin": None, "distance": None, "forwards": pa.int64(), "backwards": pa.int64(),
}  # fmt: skip
"""The type of every column of the records; None for floats of either width."""
_CODECS = ("SNAPPY", "UNCOMPRESSED")
"""Neither lets a small file hold a large table."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Tensors and a JSON header in one safetensors file; the same content gives the same bytes."""
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as part:
        # One metadata key: the library writes several in no fixed order.
        part.write_bytes(save(ready, {"about": json.dumps(about, sort_keys=True)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header of a file written by `write_tensors`; runs no code whatever the file holds."""
    tensors, about = _open(path, None, LARGEST)
    if about is None:
        raise BadInput(f"{path} has no header of ours; it was written by something else")
    return tensors, about


def write_archive(path: Path, ids: Tensor, z: Tensor, about: Mapping[str, Any]) -> FileInfo:
    """Adversarial examples z [M, C, H, W] of the samples `ids` [M], with what they were found against."""
    write_tensors(path, {"ids": ids, "z": z}, {"schema_version": SCHEMA, **about})
    return FileInfo(file=path.name, sha256=sha256(path), rows=len(ids))


def read_archive(path: Path, shape: Sequence[int] | None, most: int) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Ids [M] and examples [M, C, H, W] of an archive, mapped from the file, and its header.

    shape: (C, H, W) that the images must have; None for any. most: how many examples there can be. Nothing is loaded before
    the size of the file is known to be one that such an archive can have.
    """
    ids, z, about = _examples(path, shape, most)
    if about is None:
        raise BadInput(f"{path} has no header of ours; it was written by something else")
    return ids, z, about


def read_examples(path: Path, shape: Sequence[int], most: int) -> tuple[Tensor, Tensor]:
    """The same from a file that anybody wrote: .safetensors with ids and z, or .npz with ids and z or x_adv."""
    if path.suffix.lower() != ".npz":
        return _examples(path, shape, most)[:2]
    limit = most * _sized(shape) + HEADER
    regular(path, limit)
    arrays = sources.arrays(path, limit)
    z = arrays.get("z", arrays.get("x_adv"))
    if z is None or "ids" not in arrays:
        raise BadInput(f"{path} needs the keys ids and z (or x_adv); it holds {', '.join(sorted(arrays)[:9]) or 'nothing'}")
    try:
        ids, examples = (torch.from_numpy(np.ascontiguousarray(part)) for part in (arrays["ids"], z))
    except (TypeError, ValueError) as error:
        raise BadInput(f"{path}: {error}; give int64 and float32") from None
    _check_examples(ids, examples, path, shape, most)
    return ids, examples


def _examples(path: Path, shape: Sequence[int] | None, most: int) -> tuple[Tensor, Tensor, dict[str, Any] | None]:
    limit = LARGEST if shape is None else most * _sized(shape) + HEADER
    tensors, about = _open(path, ("ids", "z"), limit)
    _check_examples(tensors["ids"], tensors["z"], path, shape, most)
    return tensors["ids"], tensors["z"], about


def _sized(shape: Sequence[int]) -> int:
    """Bytes of an example with its id."""
    return 8 + 4 * math.prod(shape)


def _check_examples(ids: Tensor, z: Tensor, what: Path, shape: Sequence[int] | None, most: int) -> None:
    """BadInput where these are not at most so many examples of this shape with an id each."""
    right = ids.dtype == torch.int64 and z.dtype == torch.float32 and ids.dim() == 1 and z.dim() == 4 and len(ids) == len(z)
    if not right:
        found = " and ".join(f"{name} {t.dtype} {list(t.shape)}" for name, t in (("ids", ids), ("z", z))).replace("torch.", "")
        raise BadInput(f"{what} holds {found}, not ids int64 [M] and z float32 [M, C, H, W]")
    if shape is not None and tuple(z.shape[1:]) != tuple(shape):
        raise BadInput(f"{what} holds images of {_dims(z.shape[1:])}, and the samples are {_dims(shape)}")
    if len(ids) > most:
        raise BadInput(f"{what} holds {len(ids)} examples, and there can be at most {most}")
    ordered = ids.sort().values
    if bool((twice := ordered[1:] == ordered[:-1]).any()):
        raise BadInput(f"{what} holds two examples of sample {int(ordered[1:][twice][0])}; one each is what counts")


def write_records(path: Path, rows: pd.DataFrame) -> FileInfo:
    """One row per sample and attempt."""
    with atomic(path) as part:
        table = pa.Table.from_pandas(rows, preserve_index=False)
        told = {**(table.schema.metadata or {}), _VERSION: str(SCHEMA).encode()}
        pq.write_table(table.replace_schema_metadata(told), part)
    return FileInfo(file=path.name, sha256=sha256(path), rows=len(rows))


def read_records(path: Path, most: int = ROWS) -> pd.DataFrame:
    """The rows that `write_records` wrote, at most so many; names are categories.

    Nothing is loaded before the file says that it holds these columns and no more than such rows take.
    """
    regular(path, most * _ROW + HEADER)
    try:
        with pq.ParquetFile(path, read_dictionary=["attack", "run"], thrift_string_size_limit=HEADER) as file:
            _check_table(path, file, most)
            table = file.read(columns=[name for name in _COLUMNS if name in file.schema_arrow.names], use_threads=False)
        table.validate(full=True)
        if any(table[name].null_count for name in table.column_names if name not in ("margin", "distance")):
            raise BadInput(f"{path} has rows without a value; it was not written by an evaluation")
        # What the file says of pandas is a stranger's word.
        rows: pd.DataFrame = table.replace_schema_metadata(None).to_pandas()
        return rows
    # pyarrow says what is wrong with a file by many types, some of them Python's own.
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError) as error:
        raise BadInput(f"{path} is not a whole table of records: {' '.join(str(error).split())[:200]}") from None


def _check_table(path: Path, file: pq.ParquetFile, most: int) -> None:
    about, names = file.metadata, file.schema_arrow.names
    version = (file.schema_arrow.metadata or {}).get(_VERSION, b"1").decode(errors="replace")[:20]
    if version != str(SCHEMA):
        raise BadInput(f"{path} has schema version {version}, this release reads {SCHEMA}; evaluate the model again")
    # The first schema of cards knew no distances.
    if sorted({*names, "distance"}) != sorted(_COLUMNS) or len(set(names)) < len(names):
        raise BadInput(f"{path} has the columns {', '.join(names)[:200]}, and records have {', '.join(_COLUMNS)}")
    for name in names:
        kind = _COLUMNS[name]
        found = file.schema_arrow.field(name).type
        found = found.value_type if pa.types.is_dictionary(found) else found
        if found != kind and not (kind is None and found in (pa.float32(), pa.float64())):
            raise BadInput(f"{path}: column {name} holds {found}, not {kind or 'numbers'}; it was not written by an evaluation")
    if not 0 <= about.num_rows <= most:
        raise BadInput(f"{path} has {about.num_rows} rows, and there can be at most {most}")
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    if sum(group.total_byte_size for group in groups) > about.num_rows * _ROW + HEADER:
        raise BadInput(f"{path} unpacks to more than its {about.num_rows} rows can take")
    for number in range(len(groups)):
        # A damaged chunk is an exception here, and the end of the process in group.column() below.
        next(file.iter_batches(batch_size=1, row_groups=[number], use_threads=False), None)
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    if sum(group.num_rows for group in groups) != about.num_rows or any(group.num_rows < 0 for group in groups):
        raise BadInput(f"{path} contradicts itself about its number of rows")
    if any(chunk.compression not in _CODECS for chunk in chunks):
        raise BadInput(
            f"{path} is compressed with {next(c.compression for c in chunks if c.compression not in _CODECS)}, not snappy"
        )
    # Each row group has pages and dictionaries of its own, which a table of few rows still needs.
    if sum(chunk.total_uncompressed_size for chunk in chunks) > about.num_rows * _ROW + HEADER:
        raise BadInput(f"{path} unpacks to more than its {about.num_rows} rows can take")


def _open(path: Path, names: Sequence[str] | None, limit: int) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The tensors of a safetensors file, exactly these where they are given, and our header if it has one."""
    size = regular(path, limit)
    try:
        with opened(path) as raw:
            length = int.from_bytes(raw.read(8), "little")
        if size < 8 or length > min(HEADER, size):
            raise BadInput(f"{path} is not a whole safetensors file: its header has {length} bytes of {size}")
        with safe_open(path, framework="pt") as file:
            held = list(file.keys())
            if names is not None and set(held) != set(names):
                raise BadInput(
                    f"{path} has no {' and '.join(names)} alone, so it is no archive of examples; "
                    f"if it holds weights, name it ckpt:{path}"
                )
            about = parse_json((file.metadata() or {}).get("about", "null"))
            return {name: file.get_tensor(name) for name in held}, about if isinstance(about, dict) else None
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, OverflowError, TypeError) as error:
        raise BadInput(f"{path} is not a whole safetensors file: {' '.join(str(error).split())[:200]}") from None


def _dims(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))

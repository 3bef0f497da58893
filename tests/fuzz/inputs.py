"""What readers are tried with: files as the product writes them, files that lie, and damage of every kind to both."""

import copy
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from hypothesis import strategies as st

HOSTILE: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 2**64, 10**400, -(2**70), float("nan"), float("inf"), -float("inf"), 1e308, -0.0, "",
    "x", "1e999999999", "1e-999999999", "1/0", "9" * 5000 + "/7", "../../etc/passwd", "/dev/zero", "a\0b", "\ud800", "é" * 300,
    "x" * 100_000, [], {}, [[]], [None], {"": {}}, {"a": {"b": {"c": []}}}, "nan", "linf", "l2", "broken",
    0.5, "0.2", [1] * 1000,
]  # fmt: skip


class Runs:
    """A pickle of it makes a folder where it is read as pickles are by default."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.marker,)


@st.composite
def damaged(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """One of these files with a few flipped bits, cuts, repeats, insertions and pieces of another."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        if not content:
            break
        # The ends of a file say what the middle means.
        edge = draw(st.sampled_from([64, 512, len(content)]))
        place = draw(st.integers(0, len(content) - 1))
        place = place % min(edge, len(content)) if draw(st.booleans()) else -1 - place % min(edge, len(content))
        place %= len(content)
        kind, length = (
            draw(st.sampled_from(["flip", "cut", "drop", "repeat", "insert", "splice", "fill"])),
            draw(st.integers(1, 64)),
        )
        if kind == "flip":
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del content[place:]
        elif kind == "drop":
            del content[place : place + length]
        elif kind == "repeat":
            content[place:place] = content[place : place + length] * draw(st.sampled_from([1, 2, 50]))
        elif kind == "insert":
            content[place:place] = draw(st.binary(max_size=32))
        elif kind == "fill":
            content[place : place + length] = bytes([draw(st.sampled_from([0, 255, 127, 128, 57]))]) * length
        else:
            other = draw(st.sampled_from(seeds))
            start = draw(st.integers(0, len(other)))
            content[place : place + length] = other[start : start + length]
    return bytes(content)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(part, (*path, key))


@st.composite
def rewritten(draw: st.DrawFn, documents: list[Any], known: list[list[tuple[Any, ...]]]) -> Any:
    """One of these documents with a few values replaced, removed, renamed or buried."""
    which = draw(st.integers(0, len(documents) - 1))
    document = copy.deepcopy(documents[which])
    for _ in range(draw(st.integers(1, 4))):
        path = draw(st.sampled_from(known[which]))
        parent = document
        try:
            for step in path[:-1]:
                parent = parent[step]
            value = parent[path[-1]]
        except (KeyError, IndexError, TypeError):
            continue
        if not isinstance(parent, (dict, list)):
            continue
        kind = draw(st.sampled_from(["hostile", "hostile", "hostile", "number", "text", "remove", "add", "bury", "move"]))
        if kind == "remove":
            del parent[path[-1]]
        elif kind == "add" and isinstance(parent, dict):
            parent[draw(st.sampled_from(["extra", "", "schema_version", "name", "attack", "file"]))] = value
        elif kind == "bury":
            for _ in range(draw(st.sampled_from([1, 5, 200]))):
                value = [value]
            parent[path[-1]] = value
        elif kind == "number":
            parent[path[-1]] = draw(st.integers() | st.floats())
        elif kind == "text":
            parent[path[-1]] = draw(st.text(max_size=20))
        elif kind == "move":
            parent[path[-1]] = copy.deepcopy(document.get(draw(st.sampled_from(list(document)))) if document else None)
        else:
            # A copy: what is changed later must not be what the next case begins with.
            parent[path[-1]] = copy.deepcopy(draw(st.sampled_from(HOSTILE)))
    return document


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def as_toml(value: Any) -> bytes:
    """What TOML can say of it."""
    try:
        return tomli_w.dumps(value).encode("utf-8", "surrogatepass")
    except Exception:
        return repr(value).encode("utf-8", "surrogatepass")


def documents(found: list[Any], write: Callable[[Any], bytes]) -> st.SearchStrategy[bytes]:
    """Files that hold such documents: rewritten, damaged, or nothing of the kind."""
    seeds = [write(one) for one in found] + [
        b"[" * 100_000,
        b'{"a":' * 5000,
        b"a=" + b"[" * 5000,
        b"\xff\xfe" * 9,
        b"{}",
        b"[]",
        b"9" * 9999,
    ]
    known = [list(places(one)) for one in found]
    return rewritten(found, known).map(write) | damaged(seeds) | st.binary(max_size=200)


@st.composite
def tensors(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A safetensors file whose header says something else than the file holds."""
    content = draw(st.sampled_from(seeds))
    size = int.from_bytes(content[:8], "little")
    header, rest = json.loads(content[8 : 8 + size]), content[8 + size :]
    document = draw(rewritten([header], [list(places(header))]))
    if draw(st.booleans()) and isinstance(document, dict) and (names := [n for n in document if n != "__metadata__"]):
        name = draw(st.sampled_from(names))
        if isinstance(document[name], dict):
            shapes = [[2**63], [2**62, 4], [-1], [0, 2**60], [2**32, 2**32], [1] * 70, [10**30], [1.5], ["1"], [len(rest)], []]
            document[name]["shape"] = draw(st.sampled_from(shapes))
            document[name]["dtype"] = draw(
                st.sampled_from(["F32", "F64", "I64", "BOOL", "U8", "F8_E4M3", "F4", "C64", "X", "U64", "BF16"])
            )
            ends = st.sampled_from([0, 1, 4, len(rest), len(rest) + 1, 2**40, 2**63, -1])
            document[name]["data_offsets"] = [draw(ends), draw(ends)]
    text = as_json(document)
    told = draw(st.sampled_from([len(text)] * 6 + [0, 1, len(text) - 1, 2**20, 2**31, 2**63, 2**64 - 1]))
    return struct.pack("<Q", told) + text + rest


def pickles(marker: Path) -> list[bytes]:
    """Torch files: honest ones, ones that would run code, that hold themselves, and that claim sizes they do not have."""
    runs = Runs(str(marker))
    itself: dict[str, Any] = {}
    itself["model"] = itself
    state = {"0.weight": torch.zeros(2, 3), "0.bias": torch.zeros(2)}
    values = [
        state, {"state_dict": state}, itself, {"state_dict": {"a": runs}}, runs, [state], {1: state["0.bias"]},
        {("a",): state["0.bias"]}, {"a": torch.zeros(1).expand(10**15)}, {"a": torch.zeros(2, 2).to_sparse()},
        {"a": torch.zeros(2, dtype=torch.complex64)},
        {"a": torch.zeros(3, device="meta")}, {"a": torch.zeros(0)}, {"a": "b"}, {}, 3, None, {"a": torch.tensor(float("nan"))},
    ]  # fmt: skip
    found = []
    for value in values:
        for old in (False, True):
            content = io.BytesIO()
            try:
                torch.save(value, content, _use_new_zipfile_serialization=not old)
            except Exception:
                continue
            found.append(content.getvalue())
    found += [pickle.dumps(value, protocol) for value in (runs, {"a": runs}, {}, [[[]]]) for protocol in (0, 2, 4)]
    # A storage that claims more than the file, an import by opcode, an instruction that never ends.
    found += [b"\x80\x02cos\nmkdir\n(X" + struct.pack("<I", len(str(marker))) + str(marker).encode() + b"tR."]
    found += [
        b"\x80\x02" + b"]" * 10_000 + b".",
        b"\x80\x02" + b"(" * 100_000,
        b"\x80\x02X\xff\xff\xff\x7f",
        b"\x80\x02" + b"2" * 9999,
    ]
    found += [
        zipped({"archive/data.pkl": pickle.dumps({"a": runs}, 2), "archive/version": b"3\n", "archive/byteorder": b"little"})
    ]
    found += [zipped({"archive/data.pkl": bytes(10**7), "archive/version": b"3"}, zipfile.ZIP_DEFLATED), zipped({})]
    return found


def zipped(entries: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", how) as archive:
        for name, entry in entries.items():
            archive.writestr(name, entry)
    return content.getvalue()


def npy(array: Any, header: str | None = None, version: tuple[int, int] = (1, 0)) -> bytes:
    """A .npy member, with a header of its own if given."""
    content = io.BytesIO()
    np.save(content, array)
    if header is None:
        return content.getvalue()
    data = content.getvalue()
    body = data[10 + int.from_bytes(data[8:10], "little") :]
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(text)) + text + body


@st.composite
def npzs(draw: st.DrawFn, names: list[str], arrays: list[Any], marker: Path) -> bytes:
    """An npz file whose members are honest, lie about themselves, or hold objects."""
    entries = {}
    for name in names:
        # The first two are what such a file should hold.
        array = draw(st.sampled_from([*arrays, *[arrays[names.index(name)]] * len(arrays)]))
        shape = draw(
            st.sampled_from(["(3, 8, 8, 1)", "(0,)", "(-1, 8)", f"({2**62}, 8)", f"({10**30},)", "(3,", "3", "()", "(1,)*9"])
        )
        kind = draw(
            st.sampled_from(["<f4", "|u1", "<i8", "|O", "<U9", "|V8", ">f8", "<M8[s]", "|S1000000000", "[('a', '|O')]"])
        )
        header = f"{{'descr': {kind if kind[0] == '[' else repr(kind)}, 'fortran_order': False, 'shape': {shape}, }}"
        lies = draw(st.integers(0, 3)) == 0
        member = npy(array, header if lies else None, draw(st.sampled_from([(1, 0), (1, 0), (2, 0), (3, 0), (9, 9)])))
        if draw(st.integers(0, 9)) == 0:
            content = io.BytesIO()
            np.save(content, np.array([Runs(str(marker))], dtype=object), allow_pickle=True)
            member = content.getvalue()
        entries[draw(st.sampled_from([f"{name}.npy"] * 5 + [name, f"../{name}.npy", f"{name}.npy.npy"]))] = member
    content = zipped(entries, draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])))
    return draw(damaged([content])) if draw(st.integers(0, 2)) == 0 else content

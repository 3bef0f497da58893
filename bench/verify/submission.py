"""A row as a stranger sends it: one file that holds its card with what proves it, and that runs nothing when it is opened.

It is a zip archive without compression, so that it unpacks to no more than its own size.
"""

from __future__ import annotations

import re
import shutil
import stat
import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, NamedTuple

from pydantic import Field, ValidationError

from bench.core import check_name
from bench.errors import BadInput
from bench.escape import line
from bench.files import atomic, opened, read_text, regular
from bench.plugins import code_digest
from bench.results import MEASURES, Card, Record, Sentence, measures_folder, read_card, read_measurement, unlisted
from bench.verify import measured
from bench.verify.cards import cards_of
from bench.verify.consistency import contradictions
from bench.verify.loading import weights_of

SUFFIX, ABOUT = ".zip", "submission.json"
SCHEMA: Literal[1] = 1
LARGEST = 2**32 - 2
"""Bytes of a submission at most: what a zip archive counts without an extension."""
MOST_FILES, LONGEST_DIRECTORY = 1000, 2**20
"""Files of a submission, and bytes of the list of them, at most."""
LONGEST_ABOUT = 2**16
_END = struct.Struct("<4s4H2LH")
"""The end of an archive: signature, disks and counts, size and place of the list of files, length of a comment."""
_TIME = (1980, 1, 1, 0, 0, 0)
_OF_RUN = re.compile(r"train\.json|(best|last|ensemble|snapshot-\d{1,4})\.safetensors")
_OF_EVALUATION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\.(json|parquet|safetensors|npz|py)")


class Submission(Record):
    """What a stranger says of the row besides the card."""

    schema_version: Literal[1] = SCHEMA
    paper: Sentence = ""
    """Where the method is published."""
    authors: Annotated[str, Field(max_length=10_000)] = ""
    """What the authors want to be known, in their own words."""
    weights_at: Sentence = ""
    """Where the weights are, when they are not in the file."""
    code: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}\.py$")], ...] = ()
    """Files with the defense or the attacks, which lie beside the card and run only when somebody says so."""


def submission_of(paper: str, authors: Path | None, weights_at: str) -> Submission:
    """What somebody says of a row; authors: a text file of theirs."""
    try:
        text = read_text(authors, LONGEST_ABOUT) if authors else ""
        return Submission(paper=paper, authors=text, weights_at=weights_at)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg'].removeprefix('Value error, ')}") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"--authors {authors}: {getattr(error, 'strerror', None) or error}; give a text file") from None


def submit(place: Path, into: Path | None, told: Submission, code: Sequence[Path] = ()) -> tuple[Path, list[str]]:
    """Pack the row of a run or an evaluation into one file; returns it, and what it holds. None of it is run."""
    paths = cards_of([place])
    if len(paths) > 1:
        raise BadInput(f"there are {len(paths)} cards below {place}; one is sent at a time, such as {paths[0].parent}")
    source = paths[0].parent.resolve() / paths[0].name
    card = read_card(source)
    if wrong := contradictions(card, source.parent) or [*measured.problems(card, source.parent)]:
        raise BadInput(f"{source} contradicts itself, and nobody would accept it: {wrong[0]}")
    if gone := measured.missing(card, source.parent):
        raise BadInput(f"{source} has more than could be sent: {gone[0]}")
    _check_code(card, code)
    about = told.model_copy(update={"code": tuple(path.name for path in code)})
    run, own = source.parent.parent, source.parent.name
    weights = weights_of(card)
    files = [path for path in row_files(card, source) if not (about.weights_at and path.name in weights)]
    if not about.weights_at and not any(path.name in weights for path in files):
        raise BadInput(
            f"the weights of {card.model.reference} are not in {run}: say where others find them, with --weights-at URL"
        )
    target = into or Path(f"{run.name}{SUFFIX}")
    try:
        with atomic(target) as part, zipfile.ZipFile(part, "w", allowZip64=False) as archive:
            _add(archive, f"{run.name}/{own}/{ABOUT}", about.model_dump_json(indent=2).encode())
            for name, path in [*((str(file), run / file) for file in files), *((f"{own}/{path.name}", path) for path in code)]:
                _copy_in(archive, f"{run.name}/{name}", path)
            names = archive.namelist()
    except zipfile.LargeZipFile:
        raise BadInput(f"{run} takes more than {LARGEST} bytes: leave the weights out, with --weights-at URL") from None
    return target, names


def row_files(card: Card, source: Path) -> Iterator[Path]:
    """The files of a row, from the folder of its run or model; the weights are the last, where they are there."""
    own = source.parent.name
    yield Path(own, "card.json")
    for file in (card.records, card.archive, *(addition.archive for addition in card.additions)):
        yield Path(own, file.file)
    # What the card leaves out has to be judged with it.
    yield from (Path(own, name) for name in unlisted(card, source.parent))
    yield from (Path(MEASURES, name) for name in _measured(card, source.parent))
    if card.model.reference.startswith("run:"):
        yield Path("train.json")
        there = [name for name in weights_of(card) if (source.parent.parent / name).is_file()]
        yield from (Path(name) for name in there[:1] if Path(name).name == name)


def _measured(card: Card, folder: Path) -> Iterator[str]:
    """The documents of the measures that a card states, and the arrays beside them."""
    home = measures_folder(folder)
    for short in card.measures:
        yield short.file
        with suppress(BadInput):
            arrays = read_measurement(home / short.file).arrays
            if arrays and (home / arrays.file).is_file():
                yield arrays.file


def _check_code(card: Card, code: Sequence[Path]) -> None:
    """BadInput where the code that took part is not among the files given."""
    for path in code:
        regular(path, LONGEST_DIRECTORY)
    digests = {code_digest(path, path.parent) for path in code}
    for name, digest in card.code.items():
        if digest not in digests:
            which = "none of the files given is it, as it was" if code else "nobody can check the row without it"
            raise BadInput(f"{name} is a plug-in, and {which}: add --plugin FILE, the one that the row was made with")


def _entry(name: str) -> zipfile.ZipInfo:
    """The same bytes whenever and wherever it is packed."""
    entry = zipfile.ZipInfo(name, _TIME)
    entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16
    return entry


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(_entry(name), content)


def _copy_in(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    entry = _entry(name)
    entry.file_size = regular(path, LARGEST)
    with opened(path) as file, archive.open(entry, "w") as copy:
        shutil.copyfileobj(file, copy)


class Unpacked(NamedTuple):
    """A submission as it lies in a folder."""

    card: Path
    said: Submission
    code: tuple[Path, ...]


def unpack(file: Path, into: Path) -> Unpacked:
    """Unpack a submission into an empty folder; BadInput where anything about it is not as `submit` makes it."""
    try:
        with opened(file) as content:
            _check_end(file, content)
            with zipfile.ZipFile(content) as archive:
                for entry in _checked(file, archive):
                    target = into / entry.filename
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(entry) as packed, target.open("xb") as copy:
                        shutil.copyfileobj(packed, copy)
    except (zipfile.BadZipFile, struct.error, NotImplementedError, EOFError, UnicodeError, ValueError) as error:
        raise BadInput(f"submission {file} cannot be unpacked ({str(error)[:200]}); ask for it again") from None
    except OSError as error:
        raise BadInput(f"submission {file}: {error.strerror or error}") from None
    cards = sorted(into.glob("*/*/card.json"))
    if len(cards) != 1:
        raise BadInput(f"submission {file} holds {len(cards)} cards, and a submission holds one")
    said = read_about(cards[0].parent / ABOUT)
    return Unpacked(cards[0], said, tuple(cards[0].parent / name for name in said.code))


def read_about(path: Path) -> Submission:
    """What a stranger says of a row."""
    try:
        regular(path, LONGEST_ABOUT)
        return Submission.model_validate_json(read_text(path, LONGEST_ABOUT))
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{path.name}: {'.'.join(map(str, first['loc']))[:100]}: {first['msg'][:200]}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path.name} cannot be read: {str(error)[:200]}") from None


def _check_end(file: Path, content: BinaryIO) -> None:
    """BadInput where the list of files would take more memory than that of a submission, before it is read."""
    size = content.seek(0, 2)
    if size > LARGEST:
        raise BadInput(f"submission {file} has {size} bytes, and at most {LARGEST} can be one; it is not read")
    if size < _END.size:
        raise BadInput(f"submission {file} has {size} bytes, and none is so short; ask for it again")
    content.seek(size - _END.size)
    signature, *_, files, length, place, comment = _END.unpack(content.read())
    if signature != b"PK\5\6" or comment or place + length + _END.size != size:
        raise BadInput(f"submission {file}: it does not end as one that was sent; ask for it again, or give a card.json")
    if files > MOST_FILES or length > LONGEST_DIRECTORY:
        raise BadInput(f"submission {file} lists {files} files in {length} bytes; one has {MOST_FILES} at most")


def _checked(file: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files of an archive, each of them one that a submission has."""
    entries = archive.infolist()
    names = [entry.orig_filename.casefold() for entry in entries]
    for entry in entries:
        if why := _amiss(entry) or ("is in it twice" if names.count(entry.orig_filename.casefold()) > 1 else ""):
            raise BadInput(f"submission {file}: {line(entry.orig_filename)[:100]!r} {why}; nothing of it is kept")
    # Files that lie in one another would unpack to more than there is.
    if sum(entry.file_size for entry in entries) > file.stat().st_size:
        raise BadInput(f"submission {file} would unpack to more than its own size; nothing of it is kept")
    return entries


def _amiss(entry: zipfile.ZipInfo) -> str:
    """What makes an entry none of a submission; empty where nothing does."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return "is no regular file"
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.flag_bits & 0x1:
        return "is compressed or encrypted, and a submission is neither"
    parts = entry.orig_filename.split("/")
    try:
        folders = [check_name(part) for part in parts[:-1]]
    except ValueError:
        folders = []
    held = {1: _OF_RUN, 2: _OF_EVALUATION}.get(len(folders))
    if not held or entry.orig_filename != entry.filename or not held.fullmatch(parts[-1]):
        return "is no file that a submission has"
    return ""

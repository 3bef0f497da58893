"""What a stranger's folder may hold where we write, lock or read: links, pipes, folders; no byte of another file is touched."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.core.names import check_label, check_name
from bench.doctor import scaffold
from bench.errors import BadInput
from bench.escape import line
from bench.files import LOCK, alone, atomic, below, bury, opened, read_text, sha256, write_text

VALUED = "what the maintainer wrote\n"


@pytest.fixture
def valued(tmp_path: Path) -> Path:
    """A file that is nobody's but the maintainer's."""
    path = tmp_path / "authorized_keys"
    path.write_text(VALUED)
    return path


def test_what_is_not_seen_is_no_part_of_a_name() -> None:
    """Two names that look alike would be two rows, or a weak plan under the heading of a built-in one."""
    for name in ("fast ", " fast", "trades\ufe0f", "tra\u034fdes", "\u3164", "a\u2800b"):
        with pytest.raises(ValueError, match=r"a space at neither end|no space at either end"):
            check_name(name)
        with pytest.raises(ValueError, match=r"a space at neither end|no space at either end"):
            check_label(name)
    assert line("tra\ufe0fdes") == "tra?des"
    assert check_name("größe 2") == line("größe 2") == "größe 2"


def test_links_to_folders_are_followed_to_each_once(tmp_path: Path) -> None:
    """Results may lie on another disk, and a link may lead in a circle."""
    disk, results = tmp_path / "disk", tmp_path / "results"
    for folder in (disk / "run", results):
        folder.mkdir(parents=True)
    (disk / "run" / "card.json").write_text("{}")
    (results / "digits").symlink_to(disk)
    (results / "again").symlink_to(disk)
    (disk / "run" / "back").symlink_to(results)
    assert [path.resolve() for path in below(results, "card.json")] == [disk / "run" / "card.json"]


@pytest.mark.parametrize("plant", ["symlink", "hard link", "dangling", "pipe", "folder"])
def test_a_lock_that_is_no_file_of_ours_is_refused_and_left_alone(plant: str, valued: Path, tmp_path: Path) -> None:
    folder = tmp_path / "row"
    folder.mkdir()
    lock, absent = folder / LOCK, tmp_path / "absent"
    planted = {
        "symlink": lambda: lock.symlink_to(valued),
        "hard link": lambda: os.link(valued, lock),
        "dangling": lambda: lock.symlink_to(absent),
        "pipe": lambda: os.mkfifo(lock),
        "folder": lock.mkdir,
    }
    planted[plant]()
    with pytest.raises(BadInput, match="not a file of ours"), alone(folder, pytest.fail):
        pytest.fail("worked in a folder whose lock is not a lock")
    bury(lock)
    assert valued.read_text() == VALUED
    assert not absent.exists()
    assert os.path.lexists(lock)


def test_a_folder_of_ours_is_locked_and_left_clean(tmp_path: Path) -> None:
    with alone(tmp_path, pytest.fail):
        assert f"process {os.getpid()} " in (tmp_path / LOCK).read_text()
    assert [*tmp_path.iterdir()] == []


def test_what_is_written_replaces_a_link_and_spares_what_it_names(valued: Path, tmp_path: Path) -> None:
    card = tmp_path / "row" / "card.json"
    card.parent.mkdir()
    card.symlink_to(valued)
    (card.parent / ".card.json.left.part").symlink_to(valued)
    write_text(card, "{}")
    assert (card.read_text(), card.is_symlink(), valued.read_text()) == ("{}", False, VALUED)
    with atomic(card) as part:
        assert part.is_file()
        assert not part.is_symlink()
        part.write_text("[]")
    assert valued.read_text() == VALUED


@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_file_is_not_made_one(linked: bool, tmp_path: Path) -> None:
    """Whoever may write a device would have a file in its place, and every program after that."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    if linked:
        (tmp_path / "link").symlink_to(pipe)
    with pytest.raises(BadInput, match="it is a pipe; name a file"):
        write_text(tmp_path / "link" if linked else pipe, "{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == (["link", "pipe"] if linked else ["pipe"])
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["linked.py", "test_linked.py"])
def test_a_scaffold_does_not_write_through_a_link(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to(tmp_path / "absent")
    with pytest.raises(BadInput, match="already there"):
        scaffold("defense", "linked", tmp_path)
    assert not (tmp_path / "absent").exists()


READERS = {"opened": opened, "read_text": read_text, "sha256": sha256}


@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_is_an_error_and_no_wait(reader: str, tmp_path: Path) -> None:
    """In a process of its own, because a test that waits for ever says nothing."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    program = f"from pathlib import Path; from bench.files import {reader}; {reader}(Path({str(pipe)!r}))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "it is a pipe, not a file" in ended.stderr
    with pytest.raises(OSError, match="folder"):
        READERS[reader](tmp_path)


def test_a_link_to_a_file_is_read(valued: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(valued)
    assert read_text(tmp_path / "link") == VALUED


@pytest.mark.slow
def test_a_note_that_is_a_pipe_or_has_no_end_stops_no_table(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a-skipped.json")
    note = '{"schema_version": 1, "name": "mine", "dataset": "digits", "threat": "linf", "reason": "%s"}'
    (tmp_path / "b-skipped.json").write_text(note % ("x" * 2**20))
    (tmp_path / "c-skipped.json").write_text(note % "does not apply")
    program = f"from pathlib import Path; from bench.report.pages import read_skips; print(read_skips(Path({str(tmp_path)!r})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.count("reason") == done.stdout.count("does not apply") == 1

"""Which code a plug-in consists of."""

from pathlib import Path

import pytest

from bench.plugins.provenance import code_digest

FILES = {
    "mine.py": "import json.decoder\nimport top\nfrom pack.inner import part\n\n\ndef late():\n    from pack import other\n",
    "top.py": "import mine\n",
    "pack/__init__.py": "",
    "pack/inner/__init__.py": "from . import part\nfrom ..beside import NAME\n",
    "pack/inner/part.py": "PART = 1\n",
    "pack/other.py": "import bare.leaf\n",
    "pack/beside.py": "NAME = 1\n",
    "bare/leaf.py": "LEAF = 1\n",
    "stranger.py": "import mine\n",
    "broken.py": "def (:\n",
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_what_is_imported_counts_and_nothing_else(repository: Path, name: str) -> None:
    """At the top or from inside a function, absolute or relative, in packages with and without __init__.py, in circles."""
    before = code_digest(repository / "mine.py", repository)
    assert code_digest(repository / "mine.py", repository) == before
    (repository / name).write_text(FILES[name] + "# changed\n")
    changed = code_digest(repository / "mine.py", repository) != before
    assert changed == (name not in ("stranger.py", "broken.py"))


def test_the_same_code_elsewhere_is_the_same(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "renamed.py").write_text(FILES["bare/leaf.py"])
    leaf = repository / "bare" / "leaf.py"
    assert code_digest(leaf, leaf.parent) == code_digest(other / "renamed.py", other)


def test_what_leads_out_of_the_folder_is_left_alone(repository: Path) -> None:
    """As do relative imports that cannot work, and a link to a file elsewhere, which counts under its own name."""
    inner = repository / "pack"
    (inner / "mine.py").write_text("from .. import top\nfrom .linked import LEAF\n")
    (inner / "linked.py").symlink_to(repository / "bare" / "leaf.py")
    before = code_digest(inner / "mine.py", inner)
    (repository / "top.py").write_text("")
    assert code_digest(inner / "mine.py", inner) == before
    (repository / "bare" / "leaf.py").write_text("LEAF = 2\n")
    assert code_digest(inner / "mine.py", inner) != before


def test_code_that_cannot_be_parsed_counts_as_it_is(repository: Path) -> None:
    (repository / "mine.py").write_text("import broken\n")
    before = code_digest(repository / "mine.py", repository)
    (repository / "broken.py").write_text("def )(:\n")
    assert code_digest(repository / "mine.py", repository) != before

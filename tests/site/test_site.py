"""The site: what it names, where its links lead, what cannot act, and that the same results are the same bytes."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest

from bench.errors import BadInput
from bench.report import COLUMNS, read_leaderboard, write_leaderboard
from bench.site import write_report
from bench.site.documents import documents
from bench.site.site import MARK, _cleared, _ours
from bench.site.words import commands, methods_of, trained


@pytest.fixture(scope="module")
def site(shown_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site of a board."""
    out = tmp_path_factory.mktemp("site") / "report"
    write_report(shown_results, out, quiet=True)
    return out


class _Page(HTMLParser):
    """The links, names and tags of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def ids(self) -> set[str]:
        return {str(attrs["id"]) for _, attrs in self.tags if "id" in attrs}

    @property
    def links(self) -> Iterator[str]:
        for _, attrs in self.tags:
            yield from (str(attrs[key]) for key in ("href", "src") if attrs.get(key))


def test_every_link_leads_somewhere(site: Path) -> None:
    pages = {path: _Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 20
    for path, page in pages.items():
        for link in page.links:
            if link.startswith("https://"):
                assert "docs" in path.parts, f"{path.name} leads out: {link}"
                continue
            file, _, fragment = link.partition("#")
            target = (path.parent / unquote(file)).resolve() if file else path
            assert target.is_file(), f"{path.relative_to(site)} leads to {link}, which is not there"
            if fragment and target.suffix == ".html":
                assert fragment in pages[target].ids, f"{path.relative_to(site)} leads to {link}, which has no such place"


def test_nothing_is_less_than_nothing(site: Path) -> None:
    """Methods that are alike differ by +0.0 points, whichever stands first."""
    pages = [path.read_text(encoding="utf-8") for path in (site / "compare").glob("*.html")]
    assert any("+0.0" in page for page in pages)
    assert not any("-0.0" in page for page in pages)


def test_a_method_under_two_plans_is_one(shown_results: Path) -> None:
    (section,) = read_leaderboard(shown_results).sections
    assert methods_of(section) == len(section.parts[0].methods) > 1
    assert methods_of(section._replace(parts=section.parts * 2)) == methods_of(section)


def test_a_row_says_what_another_plan_left_of_its_network(tmp_path: Path) -> None:
    """On the images that both had; with the way to its page, and back."""
    rows = Path(__file__).parents[2] / "results" / "digits" / "linf-0.2"
    (row,) = rows.glob("noise_fgsm-digits_cnn-s0-c285134e")
    shutil.copytree(row, tmp_path / "results" / row.name)
    out = write_report(tmp_path / "results", tmp_path / "out", quiet=True)
    pages = {path: _Page(path) for path in (out.first.parent / "row").glob("*.html")}
    assert len(pages) == 2
    words = " ".join("".join(page.words) for page in pages.values())
    plans = re.findall(
        r"Plan (\w+) leaves [\d.]+\s% of the same 360 images, this one [\d.]+\s%[^:]*: \d+ stand there only", words
    )
    assert sorted(plans) == ["fast", "standard"]
    links = [attrs.get("href") for page in pages.values() for tag, attrs in page.tags if tag == "a"]
    assert {path.name for path in pages} <= set(links)


def test_nothing_acts_but_our_script(site: Path) -> None:
    for path in site.rglob("*.html"):
        text, page = path.read_text(encoding="utf-8"), _Page(path)
        assert "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'" in text
        scripts = [attrs.get("src") for tag, attrs in page.tags if tag == "script"]
        assert set(scripts) <= {"../assets/board.js"}
        assert not [attrs for _, attrs in page.tags for key in attrs if key.startswith("on") or key == "style"]
        assert not [attrs for tag, attrs in page.tags if tag == "img" and attrs.get("src") == "x"]
        assert "http://" not in re.sub(r"<code>.*?</code>|<pre>.*?</pre>", "", text, flags=re.S)


def test_hostile_names_are_text(site: Path, hostile: str) -> None:
    (board,) = (site / "board").iterdir()
    words = "".join(_Page(board).words)
    assert "<script>alert(1)</script>" in words
    assert "{{7*7}}" in words
    assert "n" * 100 not in words
    assert "n" * 59 + "…" in words
    rows = ["".join(_Page(path).words) for path in (site / "row").glob("*.html")]
    assert sum(hostile in words for words in rows) == 1
    csv = next((site / "data").glob("*.csv")).read_text()
    assert "n" * 10_000 in csv


def test_what_is_damaged_foreign_or_forged_is_named_and_stops_nothing(site: Path, shown_results: Path) -> None:
    words = "".join(_Page(site / "index.html").words)
    for name in ("damaged", "foreign", "forged"):
        assert f"{name}/card.json" in words
    assert str(shown_results) not in words
    assert len(read_leaderboard(shown_results).rows) == 6


def test_a_row_whose_archive_was_exchanged_says_so(shown_results: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(shown_results / "digits" / "linf-0.2" / "seed-1", results / "row")
    with (results / "row" / "smoke" / "archive.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x00\x00\x80\x3f")
    (results / "row" / "train.json").write_text("[]")
    out = write_report(results, tmp_path / "out", quiet=True)
    assert any("archive.safetensors is not the file of the card" in sentence for sentence in out.refused)
    (row,) = (out.first.parent / "row").glob("*.html")
    words = "".join(_Page(row).words)
    assert "FAILS" in words
    assert "stated" in words
    assert "holds no history of a training" in words


def test_the_same_results_give_the_same_bytes(site: Path, shown_results: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "results"
    shutil.copytree(shown_results, moved)
    write_report(moved, tmp_path / "again", quiet=True)
    first, second = (
        {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}
        for home in (site, tmp_path / "again")
    )
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_a_folder_with_other_files_is_left_alone(shown_results: Path, tmp_path: Path, site: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(BadInput, match="--out"):
        write_report(shown_results, tmp_path, quiet=True)
    assert (tmp_path / "thesis.tex").read_text() == "mine"
    stale = site / "row" / "stale.html"
    stale.write_text("")
    write_report(shown_results, site, quiet=True)
    assert not stale.exists()


def test_two_at_once_wait_for_each_other(shown_results: Path, tmp_path: Path, site: Path) -> None:
    """One would remove what the other writes."""
    write_report(shown_results, tmp_path / "out", quiet=True)
    command = [sys.executable, "-c", "from bench.cli.commands import main; main()", "report", str(shown_results), "--quiet"]
    command += ["--out", str(tmp_path / "out")]
    both = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    told = [one.communicate() for one in both]
    assert [one.returncode for one in both] == [0, 0], told
    again = {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.html")}
    assert again == {path.relative_to(site) for path in site.rglob("*.html")}
    assert not (tmp_path / "out" / ".lock").exists()


def test_a_folder_is_ours_at_every_moment_of_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another report that looks meanwhile would call it somebody else's."""
    out = tmp_path / "out"
    (out / "old").mkdir(parents=True)
    (out / MARK).write_text("")
    (out / "index.html").write_text("")
    seen = []
    for kind, name in ((Path, "unlink"), (shutil, "rmtree")):
        real = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda path, real=real, **more: (real(path, **more), seen.append(_ours(out)))[0])
    _cleared(out)
    assert len(seen) == 2
    assert [path.name for path in out.iterdir()] == [MARK]


def test_pages_are_small(site: Path) -> None:
    assert max(path.stat().st_size for path in (site / "row").glob("*.html")) < 300 * 1024
    assert max(path.stat().st_size for path in (site / "row").glob("*.png")) < 300 * 1024


def test_the_glossary_knows_every_column() -> None:
    glossary = next(doc for doc in documents().pages if doc.name == "glossary")
    for name in COLUMNS:
        assert f'<td id="{re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")}">' in glossary.body


def test_json_and_csv_hold_the_same_numbers(site: Path) -> None:
    lines = json.loads(next((site / "data").glob("*.json")).read_text())
    frame = pd.read_csv(next((site / "data").glob("*.csv")))
    assert len(lines) == len(frame) == 6
    for key in ("clean", "robust", "pgd-20", "square", "n"):
        assert sorted(line[key] for line in lines) == sorted(frame[key])
    assert all(isinstance(line["robust"], float) for line in lines)


def test_a_row_says_how_it_is_made_again(shown_results: Path, hostile: str) -> None:
    rows = read_leaderboard(shown_results).rows
    row = next(row for row in rows if row.entry.card.name == hostile)
    told = commands(row, shown_results)
    words = shlex.split(told["make"][0].replace("\\\n", " "))
    assert words[words.index("--name") + 1] == hostile
    assert words[:4] == ["OMP_NUM_THREADS=1", "gauntlet", "run", "fast_at"]
    assert told["check"][0] == f"gauntlet verify results/{row.where}/card.json"


def test_latex_has_what_a_paper_needs(site: Path, shown_results: Path) -> None:
    """In the site as by `gauntlet leaderboard`."""
    (path,), _ = write_leaderboard(shown_results, ["tex"])
    (own,) = (site / "data").glob("*.tex")
    for text in (path.read_text(), own.read_text()):
        wanted = (r"\centering", r"\label{tab:", r"\caption{digits, linf 0.2, plan smoke, n = 80", r"\toprule", r"\textbf{")
        for needed in wanted:
            assert needed in text
        assert "<script>" not in text
        assert max(line.count("&") for line in text.splitlines()) < 10
        assert max(map(len, text.splitlines())) < 300


@pytest.mark.skipif(not (TEX := shutil.which("pdflatex") or shutil.which("tectonic")), reason="no TeX is at hand")
def test_latex_compiles_and_fits_a_column_of_two(site: Path, tmp_path: Path) -> None:
    (table,) = (site / "data").glob("*.tex")
    text = r"\documentclass[twocolumn]{article}\usepackage{booktabs}\begin{document}" + "\n"
    wide = table.read_text().replace("{table}", "{table*}")
    (tmp_path / "paper.tex").write_text(text + wide + r"\end{document}")
    done = subprocess.run([TEX, "paper.tex"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (tmp_path / "paper.pdf").is_file(), done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def _unlearn(record: Path) -> None:
    """A history in which nothing was ever right but by chance."""
    content = json.loads(record.read_text())
    for entry in content["history"]:
        entry |= {"clean": 0.1, "fgsm": 0.1, "pgd": 0.1}
    record.write_text(json.dumps(content))


def test_a_row_says_how_its_training_went(tmp_path: Path) -> None:
    """Of rows of this repository: one that learned nothing for eight epochs, one whose single steps never told the truth; of a
    third the history is changed."""
    source = Path(__file__).parents[2] / "results"
    told = {}
    for name in (
        "digits/linf-0.2/pgd_at-awp-digits_cnn-s4-",
        "digits/linf-0.2/pgd_at-digits_cnn-s0-",
        "mnist/linf-0.3/zerograd-mnist_fast-s0-",
        "mnist/linf-0.3/n_fgsm-mnist_fast-s0-",
    ):
        (run,) = source.glob(f"{name}*")
        shutil.copytree(run, tmp_path / name / run.name)
        if "n_fgsm" in name:
            _unlearn(tmp_path / name / run.name / "train.json")
        (section,) = read_leaderboard(tmp_path / name).sections
        told[name.split("/")[-1]] = trained(section.parts[0].methods[0].rows[0])
    awp, plain, masked, never = told.values()
    assert "For its first 8 epochs it was right no more often than a guess is" in awp
    assert "Single steps are masked: in the kept epoch FGSM leaves 80 points more than PGD-10 does." in masked
    assert "After each of its 10 epochs it was right no more often than a guess is: it never began to learn" in never
    assert not re.search("guess|masked|collapsed", plain)

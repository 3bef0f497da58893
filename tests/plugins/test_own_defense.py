"""Defenses and attacks of one's own: the example and its test, plug-ins in place, other distributions, and the doctor."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import evaluate, train
from bench.cli.commands import main
from bench.doctor import attack_checks, declaration_checks, defense_checks
from bench.doctor.conformance import Finding, carry_out
from bench.doctor.examination import examine_plugin
from bench.doctor.scaffolding import scaffold
from bench.errors import BadInput, GauntletError, UnknownName
from bench.plugins import registry, userfile
from bench.plugins.registry import defense_names, get_attack, get_defense, load_plugin
from bench.report import Entry, render

# Without the folder it is called in on the path, as the installed script.
GAUNTLET = [sys.executable, "-P", "-c", "from bench.cli.commands import main; main()"]


def gauntlet(folder: Path, command: str, site: Path) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, with what is installed in a further folder."""
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [*GAUNTLET, *command.split()], cwd=folder, env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def unregistered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    registry.attack_names(), registry.defense_names()
    monkeypatch.setattr(sys, "path", [*sys.path])
    for table in ("_attacks", "_defenses", "_owners", "_codes", "_loaded"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))


def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["gauntlet", *command.split()])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0), *capsys.readouterr()


# The example


@pytest.mark.slow
def test_the_examples_pass_their_tests_and_changed_for_the_worse_they_do_not(tmp_path: Path) -> None:
    for kind in ("defense", "attack"):
        for name in ("good", "bad"):
            scaffold(kind, f"{name}_{kind}", tmp_path)
    for file, right, wrong in (("bad_defense.py", "net(z)", "net(x)"), ("bad_attack.py", "z + size", "z - size")):
        source = (tmp_path / file).read_text()
        assert right in source
        (tmp_path / file).write_text(source.replace(right, wrong))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not (bad_defense and contract)"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    failed = [line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert sorted(failed) == [
        "FAILED test_bad_attack.py::test_it_finds_every_example_that_a_linear_network_has",
        "FAILED test_bad_attack.py::test_it_keeps_the_contract",
        "FAILED test_bad_defense.py::test_it_is_more_robust_than_plain_training",
    ]
    assert "3 failed, 4 passed" in done.stdout


@pytest.mark.parametrize("kind", ["defense", "attack"])
def test_the_example_is_formatted_short_and_says_what_is_next(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, monkeypatch, f"new {kind} novel --into deep/er")
    assert (code, err) == (0, "")
    commands = [line.strip() for line in out.splitlines()[1:]]
    assert commands[:2] == ["gauntlet doctor novel --plugin deep/er/novel.py", "pytest deep/er/test_novel.py"]
    assert commands[-1].startswith("gauntlet ")
    assert "--plugin deep/er/novel.py" in commands[-1]
    body = Path("deep/er/novel.py").read_text().partition("\n@")[2].splitlines()
    assert len([line for line in body if line.strip()]) < 30
    for check in ("check", "format --check"):
        done = subprocess.run([sys.executable, "-m", "ruff", *check.split(), "."], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("defense", "fast_at", "exists: bench.defenses.fast_at owns the name"),
        ("attack", "pgd", "exists: bench.attacks.pgd owns the name"),
        ("defense", "3pgd", "use letters, digits and _, as in my_defense"),
        ("attack", "a-b", "use letters, digits and _, as in my_attack"),
        ("defense", "../novel", "use letters"),
        ("defense", "lambda", "use letters"),
        ("defense", "random", "means something else in Python"),
        ("defense", "context", "in the example"),
        ("attack", "margin", "in the example"),
        ("attack", "", "use letters"),
    ],
)
def test_a_name_that_cannot_be_is_refused(tmp_path: Path, kind: str, name: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        scaffold(kind, name, tmp_path)
    assert not list(tmp_path.rglob("*"))


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "test_novel.py").write_text("precious")
    with pytest.raises(BadInput, match=r"test_novel\.py is already there"):
        scaffold("defense", "novel", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["test_novel.py"]
    with pytest.raises(BadInput, match="is a file; name a folder"):
        scaffold("defense", "novel", tmp_path / "test_novel.py")
    assert (tmp_path / "test_novel.py").read_text() == "precious"


# In place


@pytest.mark.parametrize("packages", [True, False], ids=["packages", "folders without __init__.py"])
def test_a_plugin_imports_its_own_repository(
    tmp_path: Path, packages: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders called attacks/ and defenses/, imported at the top and from inside a function, beside our own."""
    scaffold("defense", "novel", tmp_path)
    source = (tmp_path / "novel.py").read_text()
    late = f"late_{packages}"  # a module that was imported is not imported again
    source = "import attacks.strength\nfrom defenses.base import Base\n" + source.replace("(Defense)", "(Base)")
    source = source.replace("        z = ctx", f"        from {late} import LATE\n\n        assert LATE\n        z = ctx", 1)
    source = source.replace("1.25 /", "attacks.strength.STEP /")
    files = {
        "novel.py": source,
        "attacks/strength.py": "STEP = 1.25\n",
        f"{late}.py": "LATE = True\n",
        "defenses/base.py": "from bench.defense import Defense\n\n\nclass Base(Defense):\n    pass\n",
        **({f"{name}/__init__.py": "" for name in ("attacks", "defenses")} if packages else {}),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    command = "run novel --plugin novel.py --epochs 1 --plan smoke --n 30 --quiet"
    code, out, err = call(capsys, monkeypatch, command)
    assert (code, err) == (0, "")
    assert "pgd-20" in out
    assert get_defense("novel").loss.__code__.co_filename == str(tmp_path / "novel.py")


def test_a_run_of_a_plugin_that_is_not_given_asks_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = plugin(tmp_path, "novel.py", "defense", "novel")
    loss = "    def loss(self, net, x, y, ctx):\n        return ctx.cross_entropy(net(x), y)\n"
    file.write_text(file.read_text() + loss)
    with monkeypatch.context() as later:
        later.setattr(registry, "_defenses", dict(registry._defenses))
        assert call(capsys, later, "train novel --plugin novel.py --epochs 1 --quiet")[0] == 0
    (run,) = (path.parent for path in tmp_path.rglob("train.json"))
    code, _, err = call(capsys, monkeypatch, f"evaluate {run} --plan smoke --quiet")
    assert code == 2
    assert "unknown defense 'novel'" in err
    assert "yours with --plugin FILE" in err


def rerun(folder: Path, *arguments: str) -> dict[str, object]:
    """The newest card that a command in a process of its own leaves behind."""
    command = [*GAUNTLET, *arguments, "--quiet", "--results", str(folder / "r")]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    newest = max(folder.rglob("card.json"), key=lambda path: path.stat().st_mtime)
    content: dict[str, object] = json.loads(newest.read_text())
    return content


@pytest.mark.slow
def test_what_a_plugin_computes_is_a_part_of_what_it_is(tmp_path: Path) -> None:
    """An edited loss, or a module it imports when it is called, is trained anew; an edited attack attacks anew."""
    (tmp_path / "late.py").write_text("F = 1.0\n")
    file = plugin(tmp_path, "novel.py", "defense", "novel")
    loss = "    def loss(self, net, x, y, ctx):\n        import late\n\n        return ctx.cross_entropy(late.F * net(x), y)\n"
    file.write_text(file.read_text() + loss)
    attack = plugin(tmp_path, "own.py", "attack", "own")
    attack.write_text(attack.read_text().replace("'l2'", "'linf'"))
    (tmp_path / "own.toml").write_text('[[attacks]]\nattack = "own"\non = "all"\n')
    command = ["run", "novel", "--plugin", "novel.py", "--plugin", "own.py", "--epochs", "1", "--plan", "own.toml", "--n", "20"]
    first = rerun(tmp_path, *command)
    assert rerun(tmp_path, *command) == first
    assert len([*tmp_path.rglob("card.json")]) == len([*tmp_path.rglob("train.json")]) == 1
    assert sorted(first["code"]) == ["attack own", "defense novel"]  # type: ignore[call-overload]
    attack.write_text(attack.read_text().replace("return x", "return x - 0"))
    second = rerun(tmp_path, *command)
    assert (len([*tmp_path.rglob("card.json")]), len([*tmp_path.rglob("train.json")])) == (2, 1)
    assert second["model"] == first["model"]
    # No attack of this plan breaks a sample: its rows are proved by an audit alone.
    check = [*GAUNTLET, *["verify", "r", "--plugin", "novel.py", "--plugin", "own.py", "--rerun", "5"]]
    done = subprocess.run(check, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    (tmp_path / "late.py").write_text("F = 3.0\n")
    done = subprocess.run(check, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "defense 'novel' has changed since this run was trained" in " ".join(done.stdout.split())
    third = rerun(tmp_path, *command)
    assert (len([*tmp_path.rglob("card.json")]), len([*tmp_path.rglob("train.json")])) == (3, 2)
    assert third["model"]["digest"] != first["model"]["digest"]  # type: ignore[index]


FAULTS = [
    ("loss", "    def loss(self, net, x, y, ctx):\n        return ctx.nothing\n", r"novel\.py:\d+: AttributeError"),
    ("loss", "    def loss(self, net, x, y, ctx):\n        raise SystemExit(0)\n", r"novel\.py:\d+: SystemExit: 0"),
    ("loss", "    def loss(self, net, x, y, ctx):\n        return None\n", "its loss is of type NoneType; return"),
    ("loss", "    def loss(self, net, x, y, ctx):\n        return net(x)\n", r"its loss is of shape \[64, 10\]"),
    ("loss", "    def loss(self, net, x, y, ctx):\n        return net(x).sum().detach()\n", "its loss is cut off from"),
    ("budget", "    def budget(self, threat, progress):\n        return 1 / 0\n", r"novel\.py:\d+: ZeroDivisionError"),
    ("skip", "    def skip(self, dataset, threat):\n        return 1 / 0\n", r"novel\.py:\d+: ZeroDivisionError"),
    ("report", "    def report(self, memory):\n        return {'x': float('nan')}\n", "its record cannot be written"),
    ("snapshots", "    def snapshots(self):\n        return (0.5, 2.0)\n", "snapshots at 0.5, 2.0; give shares"),
    ("wrap", "    def wrap(self, net):\n        return 1 / 0\n", r"novel\.py:\d+: ZeroDivisionError"),
    ("certify", "    def certify(self, net, x, threat, rng):\n        return 3\n", r"certify has to return labels \[20\]"),
    ("certify", "    def certify(self, net, x, threat, rng):\n        return net(x).argmax(1), x.new_ones(1)\n", "radii"),
    ("certify", "    def certify(self, net, x, threat, rng):\n        return net(x).argmax(1), x[:, 0, 0, 0] * float('nan')\n",
     "a radius that is no number"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "source", "told"), FAULTS, ids=[f"{fault[0]} {fault[2][:30]}" for fault in FAULTS])
def test_a_fault_of_a_plugin_is_told_in_a_line(
    tmp_path: Path, method: str, source: str, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = plugin(tmp_path, "novel.py", "defense", "novel")
    loss = "    def loss(self, net, x, y, ctx):\n        return ctx.cross_entropy(net(ctx.threat.project(x, x)), y)\n"
    file.write_text(file.read_text() + (loss if method != "loss" else "") + source)
    code, _, err = call(capsys, monkeypatch, "run novel --plugin novel.py --epochs 1 --plan smoke --n 20 --quiet")
    assert code == 2
    assert re.search(told, err.splitlines()[-1]), err
    assert "Traceback" not in err


@pytest.mark.parametrize("eps", ["0.2", "0.9"])
def test_a_certificate_that_is_wrong_is_contradicted_in_the_table(tmp_path: Path, eps: str) -> None:
    file = plugin(tmp_path, "novel.py", "defense", "novel")
    file.write_text(
        file.read_text() + "    def loss(self, net, x, y, ctx):\n        return ctx.cross_entropy(net(x), y)\n"
        "    def certify(self, net, x, threat, rng):\n        return net(x).argmax(1), x.new_full((len(x),), 9.0)\n"
    )
    load_plugin(file)
    folder = train("novel", eps=eps, settings={"epochs": "2"}, results=tmp_path, quiet=True)
    card, _ = evaluate(str(folder), plan_name="smoke", n=40, quiet=True)
    assert card.certified is not None
    assert max(float(point.eps) for point in card.certified.curve) == {"0.2": 0.8, "0.9": 0.9}[eps]
    assert card.certified.contradicted > 20
    assert f"novel: of the samples that it says are certain, {card.certified.contradicted} fell all the same" in render(
        [Entry(card, Path(), None)], "md"
    )


CERTIFIES = (
    "    def loss(self, net, x, y, ctx):\n        return ctx.cross_entropy(net(x), y)\n"
    "    def certifies_up_to(self, threat):\n        return 0.05\n"
    "    def certify(self, net, x, threat, rng):\n        return net(x).argmax(1), x.new_full((len(x),), 0.05)\n"
)


@pytest.mark.parametrize("eps", ["0.05", "0.2"])
def test_a_certificate_that_cannot_reach_says_so_before_the_training_and_below_the_table(
    tmp_path: Path, eps: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = plugin(tmp_path, "novel.py", "defense", "novel")
    file.write_text(file.read_text() + CERTIFIES)
    code, out, err = call(capsys, monkeypatch, f"run novel --plugin novel.py --eps {eps} --epochs 1 --plan smoke --n 20")
    assert code == 0
    told = "warning: novel: with these settings a certificate reaches 0.05 at most, whatever the network"
    before, _, after = err.partition("epoch 1/1")
    assert [told in part for part in (before, after, out)] == [eps == "0.2"] * 3


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("        return None\n", "novel certifies nothing here: its certificates are not about linf"),
        ("        raise BadInput('no bounds for Odd')\n", "novel certifies nothing here: no bounds for Odd"),
    ],
)
def test_why_a_defense_certifies_nothing_is_on_the_card(tmp_path: Path, body: str, told: str) -> None:
    file = plugin(tmp_path, "novel.py", "defense", "novel")
    file.write_text(
        "from bench.defense import BadInput\n" + file.read_text() + CERTIFIES.rpartition("        return")[0] + body
    )
    load_plugin(file)
    card, _ = evaluate(
        str(train("novel", settings={"epochs": "1"}, results=tmp_path, quiet=True)), plan_name="smoke", n=20, quiet=True
    )
    assert card.certified is None
    assert told in card.notes


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("@defense('novel')\nclass Thing:\n    pass\n", "no subclass of Defense"),
        ("@defense(3)\nclass Thing(Defense):\n    pass\n", "a name is text"),
        ("@defense('../up')\nclass Thing(Defense):\n    pass\n", "a name is text"),
        ("@defense\nclass Thing(Defense):\n    pass\n", "@defense needs a name"),
        ("@defense('broken_novel')\nclass Thing(Defense):\n    pass\n", "broken on purpose"),
        ("@defense('novel')\nclass Thing(Defense):\n    selects = 'pdg'\n", "did you mean 'pgd'"),
        ("@defense('novel')\nclass Thing(Defense):\n    presets = [1]\n", "mapping of mappings"),
        ("@defense('novel')\nclass Thing(Defense):\n    a: int\n", "'a' has no default"),
        ("@defense('novel')\nclass Thing(Defense):\n    model: str = 'x'\n", "the harness uses it"),
        (
            "@attack('no vel', access='score', norms={'linf'})\ndef thing(view, x, y, threat, rng):\n    return x\n",
            "a name is text",
        ),
        (
            "@attack('novel', access='score', norms='linf')\ndef thing(view, x, y, threat, rng):\n    return x\n",
            "is text; write",
        ),
    ],
)
def test_a_wrong_declaration_is_told_at_once(tmp_path: Path, source: str, told: str) -> None:
    file = tmp_path / "novel.py"
    file.write_text(f"from bench.attack import attack\nfrom bench.defense import Defense, defense\n\n\n{source}")
    with pytest.raises(GauntletError, match=told):
        load_plugin(file)
    with pytest.raises(UnknownName):
        get_defense("novel")


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "-x", "a\nb"])
def test_a_row_is_not_named_out_of_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="becomes a part of a folder's name"):
        train("standard", name=name, settings={"epochs": "1"}, results=tmp_path, quiet=True)


def test_a_module_of_another_plugin_is_not_taken_for_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Imported at the top each gets its own; from inside a function it would be whichever came first."""
    monkeypatch.setattr(userfile, "_stayed", [])
    loss = "    def loss(self, net, x, y, ctx):\n        {late}return ctx.cross_entropy(net(x), y)\n"
    for number, (top, late) in enumerate(
        [("from tool import KEY\n", ""), ("from tool import KEY\n", ""), ("", "import tool; ")]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "tool.py").write_text(f"KEY = {number}\n")
        file = plugin(folder, f"novel{number}.py", "defense", f"novel{number}")
        file.write_text(top + file.read_text() + loss.format(late=late))
        if late:
            with pytest.raises(
                BadInput, match=rf"novel2.py imports 'tool' from inside a function, and the plug-in in {tmp_path}/0"
            ):
                load_plugin(file)
        else:
            load_plugin(file)
            assert number == sys.modules[get_defense(f"novel{number}").__module__].KEY


def plugin(folder: Path, file: str, kind: str, name: str, thing: str = "Thing") -> Path:
    path = folder / file
    defense = f"@defense({name!r})\nclass {thing}(Defense):\n    passes = '1'\n"
    attack = f"@attack({name!r}, access='score', norms=['l2'])\ndef {thing}(view, x, y, threat, rng):\n    return x\n"
    path.write_text(
        "from bench.attack import attack\nfrom bench.defense import Defense, defense\n\n\n"
        + (defense if kind == "defense" else attack)
    )
    return path


def test_a_collision_of_names_says_who_owns_the_other(tmp_path: Path) -> None:
    first = plugin(tmp_path, "first.py", "defense", "novel", "One")
    second = plugin(tmp_path, "second.py", "defense", "novel", "Two")
    load_plugin(first)
    owner = get_defense("novel")
    told = rf"two defenses are called 'novel': {first} owns the name \(for One\), {second} wants it too \(for Two\); rename"
    with pytest.raises(BadInput, match=told):
        load_plugin(second)
    assert get_defense("novel") is owner
    load_plugin(first)  # the same file may come again
    (tmp_path / "first.py").write_text(first.read_text() + "\n\n@defense('novel')\nclass Again(Defense):\n    pass\n")
    with pytest.raises(BadInput, match=rf"{first} owns the name \(for One\), {first} wants it too \(for Again\)"):
        load_plugin(first)
    with pytest.raises(BadInput, match=r"two attacks are called 'pgd': bench\.attacks\.pgd owns the name"):
        load_plugin(plugin(tmp_path, "third.py", "attack", "pgd"))
    load_plugin(plugin(tmp_path, "fourth.py", "defense", "pgd"))  # a defense may be called as an attack is
    assert get_attack("pgd").run.__module__ == "bench.attacks.pgd"


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        ("access='gradients', norms=['l2']", "unknown access of attack 'novel' 'gradients': did you mean 'gradient'"),
        ("access='score', norms=['Linf']", "unknown norm of attack 'novel' 'Linf': did you mean 'linf'"),
        ("access='score', norms=[]", "declares no norm"),
    ],
)
def test_a_wrong_declaration_of_an_attack_is_told_at_once(tmp_path: Path, declaration: str, message: str) -> None:
    file = plugin(tmp_path, "novel.py", "attack", "novel")
    file.write_text(file.read_text().replace("access='score', norms=['l2']", declaration))
    with pytest.raises((BadInput, UnknownName), match=message):
        load_plugin(file)
    with pytest.raises(UnknownName):
        get_attack("novel")


def test_parameters_need_a_default_and_no_annotation(tmp_path: Path) -> None:
    file = plugin(tmp_path, "novel.py", "attack", "novel")
    good = file.read_text().replace("rng):", "rng, *, width=3):")
    file.write_text(good.replace("=3", ""))
    with pytest.raises(BadInput, match="parameter 'width' has no default"):
        load_plugin(file)
    file.write_text(good)
    load_plugin(file)
    assert get_attack("novel").configure({"width": "any"}) == {"width": "any"}


# Other distributions

PROJECT = """[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "gauntlet-{name}"
version = "1.5"

[project.entry-points."gauntlet.{group}"]
entry = "{name}"

[tool.setuptools]
py-modules = ["{name}"]
"""


def distribution(folder: Path, name: str, group: str, source: str) -> Path:
    """A project of one module, ready to be installed."""
    (folder / name).mkdir(parents=True)
    (folder / name / "pyproject.toml").write_text(PROJECT.format(name=name, group=group))
    (folder / name / f"{name}.py").write_text(source)
    return folder / name


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two distributions that work and two that do not, built and installed by pip, without a network."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("distributions")
    for kind in ("defense", "attack"):
        scaffold(kind, f"shipped_{kind}", folder)
    sources = {
        ("sound", "defenses"): (folder / "shipped_defense.py").read_text(),
        ("solid", "attacks"): (folder / "shipped_attack.py").read_text(),
        ("greedy", "defenses"): plugin(folder, "greedy.py", "defense", "fast_at").read_text(),
        ("broken", "attacks"): "import nowhere_to_be_found\n",
    }
    projects = [str(distribution(folder / "projects", *kind, source)) for kind, source in sources.items()]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    subprocess.run([*command, "--no-build-isolation", "--target", str(folder / "site"), *projects], check=True)
    return folder / "site"


@pytest.mark.slow
def test_entry_points_work_and_those_that_do_not_are_named_and_stop_nothing(site: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text('[[attacks]]\nattack = "shipped_attack"\non = "all"\n')
    done = gauntlet(tmp_path, "run shipped_defense --epochs 1 --plan plan.toml --n 30 --quiet", site)
    assert done.returncode == 0
    assert "shipped_defense" in done.stdout
    assert "shipped_attack" in done.stdout
    broken, greedy = sorted(done.stderr.splitlines())
    assert broken.startswith("warning: distribution gauntlet-broken 1.5 is left out: its entry point 'entry' (broken): ")
    assert "ModuleNotFoundError: No module named 'nowhere_to_be_found'; repair or uninstall it" in broken
    assert greedy.startswith("warning: distribution gauntlet-greedy 1.5 is left out: its entry point 'entry' (greedy): ")
    assert "bench.defenses.fast_at owns the name" in greedy
    assert "distribution gauntlet-greedy 1.5 (greedy) wants it too" in greedy


@pytest.mark.slow
def test_what_a_distribution_brings_is_listed_and_owns_its_name(site: Path, tmp_path: Path) -> None:
    listed = gauntlet(tmp_path, "list", site)
    assert listed.returncode == 0
    for name in ("shipped_defense", "shipped_attack", "fast_at"):
        assert f"\n{name} " in listed.stdout
    assert "shipped_defense" not in defense_names()
    file = plugin(tmp_path, "novel.py", "defense", "shipped_defense")
    done = gauntlet(tmp_path, "list defenses --plugin novel.py", site)
    assert done.returncode == 2
    owner = "distribution gauntlet-sound 1.5 (sound) owns the name (for ShippedDefense)"
    assert f"{owner}, {file} wants it too (for Thing)" in done.stderr
    assert "Traceback" not in done.stderr


# The doctor


def outcome(name: str) -> dict[str, Finding]:
    """The findings of the checks that are not of the name alone, in linf only."""
    if name in registry.defense_names():
        case = {"linf": defense_checks.cases(name)[0]["linf"]}
        found = [*carry_out(declaration_checks.CHECKS, {name: name}, Path()), *carry_out(defense_checks.CHECKS, case, Path())]
    else:
        found = [*carry_out(attack_checks.CHECKS, {"linf": attack_checks.cases(name)["linf"]}, Path())]
    return {finding.check: finding for finding in found}


LOSS = "        return ctx.cross_entropy(net(z), y)\n"
DEFENSE_FAULTS = [
    ("texts", "a docstring", '    """Trains', '    pass\n    # """Trains'),
    ("texts", "what it costs", 'passes = "1 + steps"', ""),
    ("defaults and presets", "steps = 0", "= 2", "= 0"),
    ("defaults and presets", "'lr', as the recipe has", "    paper", "    lr: float = 0.1\n    paper"),
    ("defaults and presets", "there is no data set 'Digits'; did you mean 'digits'", "    paper",
     "    presets = {'Digits': {'epochs': 3}}\n    paper"),
    ("defaults and presets", "there is no data set 'imagenette'; a data set of your own must lie there", "    paper",
     "    presets = {'imagenette': {'epochs': 3}}\n    paper"),
    ("defaults and presets", "did you mean 'epochs'", "    paper", "    presets = {'mnist': {'epoch': 3}}\n    paper"),
    ("updates and snapshots", "rising", "    paper", "    def snapshots(self):\n        return 1.0, 0.5\n\n    paper"),
    ("adaptive attacks", "unknown attack 'pdg'", "    paper",
     "    def adaptive(self):\n        return [{'attack': 'pdg'}]\n\n    paper"),
    ("finite scalar loss", "shape [32]", LOSS, "        return nn.functional.cross_entropy(net(z), y, reduction='none')\n"),
    ("finite scalar loss", "nan", LOSS, LOSS.replace("y)\n", "y) * float('nan')\n")),
    ("finite scalar loss", "returned a float", LOSS, LOSS.replace("y)\n", "y).item()\n")),
    ("gradients reach every weight", "net.0.weight", LOSS, LOSS.replace("net(z)", "net.net[-1](net.net[:-1](z).detach())")),
    ("gradients reach every weight", "no gradient", LOSS, LOSS.replace("y)\n", "y).detach()\n")),
    ("network and images left as found", "eval mode", LOSS, "        net.eval()\n" + LOSS),
    ("network and images left as found", "work on a clone", LOSS, "        x.clamp_(0.1, 0.9)\n" + LOSS),
    ("network and images left as found", "net.0.weight", LOSS, "        net.net[0].weight.data.mul_(1.01)\n" + LOSS),
    ("no global random state", "generator of torch;", LOSS, "        z = z + 0.01 * torch.randn_like(z)\n" + LOSS),
    ("no global random state", "generator of Python;", LOSS, "        z = z * random.random()\n" + LOSS),
    ("no global random state", "generator of numpy;", LOSS, "        z = z * numpy.random.rand()\n" + LOSS),
    ("same context, same loss", "keep no state", LOSS, "        COUNT.append(0)\n        z = z / len(COUNT)\n" + LOSS),
    ("same context, same loss", "taken twice", LOSS,
     "        ctx.memory['k'] = ctx.memory.get('k', torch.zeros(())) + 1\n        z = z / ctx.memory['k']\n" + LOSS),
    ("noise keyed by sample", "another place", LOSS,
     "        z = z + 0.1 * torch.rand(z.shape, generator=torch.Generator().manual_seed(0))\n" + LOSS),
    ("budget within [0, eps]", "more than eps", "    paper",
     "    def budget(self, threat, progress):\n        return threat.scaled(2 * progress)\n\n    paper"),
    ("state survives a restart", "ctx.memory", LOSS,
     "        net.seen = getattr(net, 'seen', 0) + ctx.epoch\n        z = z / (1 + net.seen)\n" + LOSS),
    ("state survives a restart", "tensors", LOSS, "        ctx.memory['names'] = ['a']\n" + LOSS),
    ("20 steps lower the loss", "sign", LOSS, LOSS.replace("return", "return -")),
    ("finite scalar loss", "SystemExit", LOSS, "        raise SystemExit(0)\n"),
    ("no global random state", "generator of torch;", LOSS,
     "        z = z + (0.01 * torch.randn_like(z) if ctx.progress < 0.5 else 0)\n" + LOSS),
    ("budget within [0, eps]", "more than eps", "    paper",
     "    def budget(self, threat, progress):\n        return threat.scaled(3 if 0.963 < progress < 0.99 else 1)\n\n    paper"),
    ("budget within [0, eps]", "generator of torch;", "    paper",
     "    def budget(self, threat, progress):\n        return threat.scaled(float(torch.rand(())))\n\n    paper"),
    ("certificates and records", "its report cannot be written", "    paper",
     "    def report(self, memory):\n        return {'x': torch.zeros(3)}\n\n    paper"),
    ("certificates and records", "labels [2] and radii [2]", "    paper",
     "    def certify(self, net, x, threat, rng):\n        return net(x).argmax(1), x.new_ones(1)\n\n    paper"),
    ("certificates and records", "it certified 0.05, and its certifies_up_to() says 0.04 at most", "    paper",
     CERTIFIES.partition("y)\n")[2].replace("return 0.05", "return 0.04") + "\n    paper"),
    ("answers at test time", "[32, 5]", "    paper",
     "    def wrap(self, net):\n        return nn.Sequential(net, nn.AvgPool1d(2))\n\n    paper"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "remedy", "right", "wrong"), DEFENSE_FAULTS, ids=[f"{f[0]}: {f[1]}" for f in DEFENSE_FAULTS])
def test_the_doctor_finds_what_is_wrong_with_a_defense(tmp_path: Path, check: str, remedy: str, right: str, wrong: str) -> None:
    scaffold("defense", "novel", tmp_path)
    source = (tmp_path / "novel.py").read_text()
    assert source.count(right) == 1
    (tmp_path / "novel.py").write_text(
        "import random\n\nimport numpy\nimport torch\n\nCOUNT = [0]\n" + source.replace(right, wrong)
    )
    load_plugin(tmp_path / "novel.py")
    finding = outcome("novel")[check]
    assert finding.ok is False
    assert remedy in finding.remedy


SCORE = """from bench.attack import attack


@attack("novel", access="score", norms={"linf"})
def novel(view, x, y, threat, rng, *, queries=80):
    '''Random points of the ball.'''
    best = x.clone()
    for query in range(queries):
        z = threat.random_start(x, rng.at(query), corner=True)
        wrong = (view.logits(z).argmax(1) != y).view(-1, 1, 1, 1)
        best = wrong * z + ~wrong * best
    return best
"""
MOVE = "    return best\n"
ATTACK_FAULTS = [
    ("texts", "a docstring", "    '''Random", "    # '''Random"),
    ("asks for no more than it declares", "asked for grad", MOVE, "    view.grad\n" + MOVE),
    ("inside ball and box, 5 and 2 classes", "24 of 24 candidates", MOVE, "    return best + threat.radius + 2e-6\n"),
    ("inside ball and box, 5 and 2 classes", "torch.float64", MOVE, "    return best.double()\n"),
    ("inside ball and box, 5 and 2 classes", "a tuple", MOVE, "    return best, y\n"),
    ("inside ball and box, 5 and 2 classes", "at least 3 classes", MOVE,
     "    dlr(x.new_zeros(1, 2), y) if (y < 2).all() else 0\n" + MOVE),
    ("empty batch and batch of one", "a batch of 0", MOVE, "    best.max()\n" + MOVE),
    ("empty batch and batch of one", "a batch of 1", MOVE, "    return best.squeeze(0)\n"),
    ("eps 0 changes nothing", "radius 0", MOVE, "    return best + 1e-7\n"),
    ("a sample does not see its batch", "rng.at", MOVE, "    return threat.project(best + 0.01 * best.mean(0), x)\n"),
    ("no global random state", "generator of torch;", MOVE, "    torch.rand(1)\n" + MOVE),
    ("network and images left as found", "work on a clone", MOVE, "    x.clamp_(0.1, 0.9)\n" + MOVE),
    ("network and images left as found", "train mode", MOVE, "    view._net.train()\n" + MOVE),
    ("query budget", "more than its 80 queries", "range(queries)", "range(queries + 1)"),
    ("finds more than a random draw", "on 0 of 24", MOVE, "    return x.clone()\n"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "remedy", "right", "wrong"), ATTACK_FAULTS, ids=[f"{f[0]}: {f[1]}" for f in ATTACK_FAULTS])
def test_the_doctor_finds_what_is_wrong_with_an_attack(tmp_path: Path, check: str, remedy: str, right: str, wrong: str) -> None:
    assert SCORE.count(right) == 1
    source = "import torch\nfrom bench.attack import dlr\n" + SCORE
    (tmp_path / "novel.py").write_text(source.replace(right, wrong))
    load_plugin(tmp_path / "novel.py")
    finding = outcome("novel")[check]
    assert finding.ok is False
    assert remedy in finding.remedy


def test_the_doctor_is_content_with_what_the_faults_are_made_from(tmp_path: Path) -> None:
    (tmp_path / "novel.py").write_text(SCORE)
    scaffold("defense", "my_defense", tmp_path)
    for name in ("novel", "my_defense"):
        load_plugin(tmp_path / f"{name}.py")
        assert [finding for finding in outcome(name).values() if not finding.ok] == []


@pytest.mark.parametrize("name", ["noise_fgsm", "square", "transfer"])
def test_the_doctor_is_content_with_ours(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = call(capsys, monkeypatch, f"doctor {name}")
    assert (code, err) == (0, "")
    assert "FAILED" not in out
    assert out.endswith(f"{name}: all is well\n")


def test_a_defense_that_is_not_for_digits_is_checked_as_far_as_it_goes(tmp_path: Path) -> None:
    file = plugin(tmp_path, "novel.py", "defense", "novel")
    file.write_text(file.read_text() + "    def skip(self, dataset, threat):\n        return 'it wants colour'\n")
    load_plugin(file)
    *_, rest = examine_plugin("novel")
    assert rest == Finding("everything else", None, "cannot be tried on digits: it wants colour")


def test_the_doctor_says_where_and_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = plugin(tmp_path, "novel.py", "defense", "novel")
    file.write_text(file.read_text() + "    def loss(self, net, x, y, ctx):\n        return undefined\n")
    code, out, err = call(capsys, monkeypatch, f"doctor novel --plugin {file}")
    assert (code, err) == (1, "")
    assert f"linf: {file}:9:" in " ".join(out.split())
    assert "NameError: name 'undefined' is not defined" in " ".join(out.split())
    assert "FAILED" in out
    assert "as above" in out
    code, out, err = call(capsys, monkeypatch, "doctor fast_att")
    assert (code, out) == (2, "")
    assert "unknown defense or attack 'fast_att': did you mean 'fast_at'?" in err


# The rest of the command line


def test_a_lack_of_memory_is_told_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hungry = "    def loss(self, net, x, y, ctx):\n        return torch.empty(2**50).sum()\n"
    file = plugin(tmp_path, "novel.py", "defense", "novel")
    file.write_text("import torch\n" + file.read_text() + hungry)
    code, _, err = call(capsys, monkeypatch, f"train novel --plugin {file} --epochs 1 --quiet --results {tmp_path}")
    assert code == 2
    assert err.startswith("error: out of memory; everything finished is kept: try a smaller --batch-size")


def test_help_and_list_name_what_comes_from_other_libraries(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for command, told in (
        ("list attacks", "torchattacks:NAME and foolbox:NAME"), ("evaluate --help", "robustbench:NAME"),
        ("transfer --help", "robustbench:NAME"), ("list defenses", "Wong et al. 2020"), ("list defenses", "passes per step"),
    ):  # fmt: skip
        code, out, _ = call(capsys, monkeypatch, command)
        assert code == 0
        assert told in " ".join(out.split())


# What a plug-in may do, and what it is told


UNUSUAL = '''
import torch
from bench.defense import Defense, adversarial_step, defense


@defense("clipped")
class Clipped(Defense):
    """Scales the gradient of its weights by itself, and hands it on as a linear loss."""

    passes = "2"

    def loss(self, net, x, y, ctx):
        z = adversarial_step(ctx.threat.random_start(x, ctx.rng.at("start")), x, y, 1.25, ctx)
        loss = ctx.cross_entropy(net(z), y)
        weights = list(net.parameters())
        grads = torch.autograd.grad(loss, weights)
        scale = (1 / torch.stack([grad.norm() for grad in grads]).norm().clamp_min(1e-12)).clamp_max(1)
        line = sum((weight * (grad * scale)).sum() for weight, grad in zip(weights, grads))
        return loss.detach() + line - line.detach()


@defense("idle")
class Idle(Defense):
    """No loss."""


@defense("forgetful")
class Forgetful(Clipped):
    """Keeps something in itself."""

    def loss(self, net, x, y, ctx):
        self.seen = x
        return super().loss(net, x, y, ctx)


@defense("prepared")
class Prepared(Clipped):
    """Before anything else."""

    def __post_init__(self):
        self._cache = {}
'''


@pytest.mark.parametrize("option", ["swa=0.5", "statistics=adversarial"])
def test_a_loss_may_take_gradients_of_the_weights_whatever_statistics_are_kept(
    tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unusual.py").write_text(UNUSUAL)
    monkeypatch.chdir(tmp_path)
    command = f"train clipped --plugin unusual.py --model preact_resnet18?width=2 --epochs 2 --set {option} --quiet"
    code, out, err = call(capsys, monkeypatch, command)
    assert (code, err) == (0, "")
    assert (Path(out.strip().splitlines()[-1]) / "train.json").is_file()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("idle", "has no loss; write def loss"),
        ("forgetful", r"sets self\.seen, .*ctx\.remember\('seen', tensor\)"),
        ("prepared", r"sets self\._cache"),
    ],
)
def test_what_a_plugin_cannot_do_is_told_in_a_line(
    tmp_path: Path, name: str, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unusual.py").write_text(UNUSUAL)
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, monkeypatch, f"train {name} --plugin unusual.py --epochs 1 --quiet")
    assert code == 2
    assert re.fullmatch(f"error: defense '{name}' .*{told}.*\n", err)

"""The runner of mutants: which changes it makes, and which it counts as noticed."""

import json
import subprocess
from pathlib import Path

import pytest

from scripts.bench import mutate
from scripts.bench.mutate import Group, Outcome, draw_mutants, find_mutants, main, read_groups, read_results

CALC = '''"""Counts."""


def share(part, whole):
    if whole <= 0:
        raise ValueError(f"the whole is {whole + 1}")
    return part / whole


def unguarded(first, second):
    return first + second
'''
TEST = """from calc import share, unguarded
import pytest


def test_share():
    assert share(1, 4) == 0.25
    with pytest.raises(ValueError):
        share(1, 0)
    unguarded(1, 1)
"""
TABLE = "calc:\n  files: ['ca*.py']\n  tests: [test_calc.py]\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # the project needs none, and loading them takes a second
    root = tmp_path / "project"
    root.mkdir()
    for name, content in (("calc.py", CALC), ("test_calc.py", TEST), ("table.yaml", TABLE)):
        (root / name).write_text(content)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


def run(root: Path, *flags: str, output: str = "results.jsonl") -> int:
    return main(["--table", str(root / "table.yaml"), "--output", str(root.parent / output), *flags], root)


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("y = a < b <= c", {"y = a <= b <= c", "y = a < b < c"}),
        ("y = a is not None", {"y = a is None"}),
        ("y = a not in b", {"y = a in b"}),
        ("y = (a) == (b)", {"y = (a) != (b)"}),
        ("y = a + b * c", {"y = a - b * c", "y = a + b / c"}),
        ("y = a // b", {"y = a / b"}),
        ("y = a % b", {"y = a * b"}),
        ("y = a - b", {"y = a + b"}),
        ("y = é('ü') - b", {"y = é('ü') + b"}),
        ("y += b", {"y -= b", "pass"}),
        ("y = a and b or c", {"y = a or b or c", "y = a and b and c"}),
        ("y = not a", {"y = a"}),
        ("y = -a", {"y = a"}),
        ("y = 3", {"y = 4", "y = 2"}),
        ("y = a[0]", {"y = a[1]", "y = a[(-1)]"}),
        ("y = 0.5", {"y = 1.0", "y = 0.25"}),
        ("y = 0.0", {"y = 1.0"}),
        ("y = True", {"y = False"}),
        ("y = max(a, b)", {"y = min(a, b)"}),
        ("y = a.argmin()", {"y = a.argmax()"}),
        ("y = all(a)", {"y = any(a)"}),
        ("a.append(b)", {"pass"}),
        ("raise ValueError(a + b)", {"pass"}),
        ("x: float = 2", {"x: float = 3", "x: float = 1"}),
        ("def f(a: Literal[1] = 0, *, b=True): pass", {"a: Literal[1] = 1", "a: Literal[1] = (-1)", "b=False"}),
        # What no number depends on.
        ('"""1 + 1"""', set()),
        ("assert a < 1", set()),
        ("y = f'{a + 1}'", set()),
        ("y: Literal[1]", set()),
        ("@dataclass(frozen=True)\nclass A: pass", set()),
        ("y = a @ b", set()),
    ],
)
def test_what_is_changed(line: str, changed: set[str]) -> None:
    made = {mutant.apply(line) for mutant in find_mutants("group", "file.py", line)}
    if line.startswith("def"):
        assert len(made) == len(changed)
        assert all(any(change in one for one in made) for change in changed)
    else:
        assert made == changed


def test_an_operator_is_found_behind_a_comment() -> None:
    line = "y = (a  # the - of b\n    - b)"
    (mutant,) = find_mutants("group", "file.py", line)
    assert mutant.apply(line) == "y = (a  # the - of b\n    + b)"
    assert mutant.line == 2


def test_defaults_are_their_own_kind() -> None:
    kinds = {mutant.before: mutant.kind for mutant in find_mutants("g", "f.py", "def f(a=7):\n    return a + 8\n")}
    assert kinds == {"7": "default", "+": "arithmetic", "8": "constant"}


def test_a_draw_changes_every_place_before_any_twice(project: Path) -> None:
    group = read_groups(project / "table.yaml", project)["calc"]
    everything = draw_mutants(group, project, 1000, seed=3)
    places = {(one.start, one.end) for one in everything}
    assert len(everything) > len(places)
    assert len({(one.start, one.end) for one in everything[: len(places)]}) == len(places)
    assert everything == draw_mutants(group, project, 1000, seed=3)
    assert everything != draw_mutants(group, project, 1000, seed=4)
    assert everything[:4] == draw_mutants(group, project, 4, seed=3)


def test_survivors_are_what_no_test_notices(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in project.iterdir() if path.is_file()}
    assert run(project, "--mutants", "100") == 1
    printed = capsys.readouterr().out
    results = list(read_results(project.parent / "results.jsonl").values())
    survived = {one.mutant.diff(CALC) for one in results if one.outcome is Outcome.SURVIVED}
    assert survived == {
        "- return first + second\n    + return first - second",
        "- if whole <= 0:\n    + if whole <= 1:",
    }
    assert f"all: {len(results) - 2} of {len(results)} killed" in printed
    assert "survivor" in printed
    assert all(one.test.startswith("test_calc.py") for one in results if one.outcome is Outcome.KILLED)
    assert before == {path.name: path.read_bytes() for path in project.iterdir() if path.is_file()}


def test_an_interrupted_run_goes_on(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = project.parent / "results.jsonl"
    run(project, "--mutants", "4")
    lines = output.read_text().splitlines(keepends=True)
    assert len(lines) == 4
    output.write_text("".join(lines[:2]) + lines[2][:30])  # killed while it wrote the third
    asked: list[str] = []
    original = mutate.TestRunner.run

    def counted(self: mutate.TestRunner, mutant: mutate.Mutant, group: Group) -> mutate.Result:
        asked.append(mutant.name)
        return original(self, mutant, group)

    monkeypatch.setattr(mutate.TestRunner, "run", counted)
    run(project, "--mutants", "4")
    assert asked == [json.loads(line)["name"] for line in lines[2:]]
    assert [json.loads(line)["name"] for line in output.read_text().splitlines()] == [
        json.loads(line)["name"] for line in lines
    ]
    # Results of another content of the file are not used.
    (project / "calc.py").write_text(CALC + "\n")
    asked.clear()
    run(project, "--mutants", "4")
    assert len(asked) == 4


def test_an_endless_mutant_is_killed_by_time(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = "def share():\n    n = 3\n    while n > 0:\n        n -= 1\n    return n\n"
    (project / "calc.py").write_text(content)
    (project / "test_calc.py").write_text("from calc import share\n\n\ndef test():\n    assert share() == 0\n")
    monkeypatch.setattr(mutate, "MIN_SECONDS", 2.0)
    monkeypatch.setattr(mutate, "TIMES_BASELINE", 0.0)
    group = read_groups(project / "table.yaml", project)["calc"]
    (endless,) = [one for one in find_mutants("calc", "calc.py", content) if one.kind == "statement"]
    result = mutate.TestRunner(project, tmp_path / "copy").run(endless, group)
    assert (result.outcome, result.test) == (Outcome.TIMEOUT, "")
    assert result.seconds >= 2
    assert (tmp_path / "copy" / "calc.py").read_text() == content


def test_tests_that_fail_already_are_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "test_calc.py").write_text(TEST.replace("0.25", "0.5"))
    with pytest.raises(SystemExit) as ended:
        run(project, "--mutants", "1")
    assert ended.value.code == 2
    assert "calc: the tests fail without a mutant" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("calc:\n  files: [none.py]\n  tests: [test_calc.py]\n", "calc: none.py fits no file"),
        ("calc:\n  files: [calc.py]\n  tests: [none.py]\n", "calc: the test none.py does not exist"),
        ("calc:\n  files: [calc.py]\n", "calc: expected the keys files and tests"),
    ],
)
def test_a_wrong_table_is_refused(project: Path, table: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "table.yaml").write_text(table)
    with pytest.raises(SystemExit):
        run(project)
    assert message in capsys.readouterr().err


def test_an_unknown_group_and_foreign_results_are_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(project, "--groups", "other")
    assert "unknown group other; the groups are calc" in capsys.readouterr().err
    (project.parent / "results.jsonl").write_text("{}\n")
    with pytest.raises(SystemExit):
        run(project, "--report")
    assert "results.jsonl, line 1: not a result of this script" in capsys.readouterr().err


def test_list_and_report_run_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(project, "--mutants", "3")
    capsys.readouterr()
    monkeypatch.setattr(mutate, "TestRunner", None)
    assert run(project, "--list", "--mutants", "3") == 0
    assert capsys.readouterr().out.count("calc.py:") == 3
    run(project, "--report")
    assert "of 3 killed" in capsys.readouterr().out


def test_the_projects_table_names_files_that_have_mutants() -> None:
    groups = read_groups(mutate.TABLE, mutate.ROOT)
    assert all(draw_mutants(group, mutate.ROOT, 1, seed=0) for group in groups.values())
    files = [file for group in groups.values() for file in group.files]
    assert len(files) == len(set(files))

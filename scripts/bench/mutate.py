"""Mutation testing: change one detail of code that numbers depend on, and see whether its tests notice.

    python scripts/bench/mutate.py --groups plum_losses,plum_heads --mutants 20 --output runs/mutants.jsonl
    python scripts/bench/mutate.py --groups plum_losses --list          # the drawn mutants, nothing is run
    python scripts/bench/mutate.py --output runs/mutants.jsonl --report # what a file of results says

`scripts/bench/mutants.yaml` names the groups: files, and the tests that guard them. From each group the seed draws
mutants of these kinds:

    comparison   < and <=, > and >=, == and !=, is and is not, in and not in
    arithmetic   + and -, * and /, // to /, % and ** to *, also in +=; the sign of -x
    constant     n + 1 and n - 1 of integers, twice and half of other numbers, True and False
    default      the same for defaults of arguments and of dataclass fields
    boolean      and and or
    negation     not x to x
    extreme      min and max, argmin and argmax, any and all
    statement    a call, an augmented assignment, a raise, a break or a continue dropped

Messages of errors, annotations, docstrings and assertions are left alone: no number depends on them.

The tests run with -x in a copy of the working tree, one mutant at a time; the tree itself is never touched. Before its
first mutant, each group's tests run once on the unchanged copy: they must pass, and their time sets the limit after
which a mutant counts as killed (an endless loop). Each result is a line of JSON in --output, so that an interrupted run
goes on where it stopped. A mutant has a name made of the file's content and the change: results of changed files are
not used again.

A survivor is a missing test, or an equivalent mutant: a change that no test can see (a faster path, a tolerance that is
never reached). Read it, then add a test or say why there can be none.
"""

import argparse
import ast
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("mutants.yaml")
MIN_SECONDS = 60.0
TIMES_BASELINE = 5.0
"""A mutant may take this many times the time of the unchanged tests, and at least MIN_SECONDS."""
COMPARISONS: Mapping[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
OPERATORS: Mapping[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
}
BOOLEANS: Mapping[type[ast.boolop], tuple[str, str]] = {ast.And: ("and", "or"), ast.Or: ("or", "and")}
EXTREMES = {"min": "max", "argmin": "argmax", "any": "all", "amin": "amax", "minimum": "maximum"}
EXTREMES |= {other: one for one, other in EXTREMES.items()}


class Outcome(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    TIMEOUT = "killed by time"
    SURVIVED = "survived"


@dataclass(frozen=True)
class Mutant:
    """A change of a file: its characters [start, end) become `after`."""

    group: str
    file: str
    line: int
    kind: str
    start: int
    end: int
    before: str
    after: str
    content_sha256: str

    @property
    def name(self) -> str:
        """A name that depends on the file's content and the change."""
        parts = (self.file, self.content_sha256, str(self.start), str(self.end), self.after)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def apply(self, content: str) -> str:
        """Return the file's content with the change."""
        return content[: self.start] + self.after + content[self.end :]

    def diff(self, content: str) -> str:
        """Return the changed line before and after; of a statement over several lines, the first."""
        before = content.splitlines()[self.line - 1].strip()
        after = self.apply(content).splitlines()[self.line - 1].strip()
        return f"- {before}\n    + {after}"


@dataclass(frozen=True)
class Group:
    """Files, relative to the project, and the tests that guard them."""

    name: str
    files: tuple[str, ...]
    tests: tuple[str, ...]


def read_groups(path: Path, root: Path) -> dict[str, Group]:
    """Read the table of groups.

    Raises:
        ValueError: the table has another form, a pattern fits no file, or a test does not exist.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    groups: dict[str, Group] = {}
    taken: set[str] = set()
    for name, entry in content.items():
        if not isinstance(entry, dict) or set(entry) != {"files", "tests"}:
            raise ValueError(f"{path}, {name}: expected the keys files and tests")
        missing = [test for test in entry["tests"] if not (root / test).exists()]
        if missing:
            raise ValueError(f"{path}, {name}: the test {missing[0]} does not exist")
        files: list[str] = []
        for pattern in (one for short in entry["files"] for one in _braces(short)):
            found = sorted(one.relative_to(root).as_posix() for one in root.glob(pattern))
            if not found:
                raise ValueError(f"{path}, {name}: {pattern} fits no file")
            files += [one for one in found if one not in taken]
            taken.update(found)
        groups[name] = Group(name, tuple(files), tuple(entry["tests"]))
    return groups


def _braces(pattern: str) -> list[str]:
    """Write out "{a,b}.py"."""
    match = re.fullmatch(r"(.*)\{(.*)\}(.*)", pattern)
    return [pattern] if match is None else [f"{match[1]}{one}{match[3]}" for one in match[2].split(",")]


class _Finder(ast.NodeVisitor):
    """Collects the changes of a file as (kind, start, end, after)."""

    def __init__(self, content: str) -> None:
        self._content = content
        lines = content.splitlines(keepends=True)
        self._lines = lines
        self._starts = [0]
        for line in lines:
            self._starts.append(self._starts[-1] + len(line))
        self._in_default = False
        self.changes: list[tuple[str, int, int, str]] = []

    def _place(self, line: int, column: int) -> int:
        """Return the character at a place of the tree, whose columns count bytes of UTF-8."""
        text = self._lines[line - 1] if line <= len(self._lines) else ""
        return self._starts[line - 1] + len(text.encode("utf-8")[:column].decode("utf-8"))

    def _span(self, node: ast.expr | ast.stmt | ast.arg) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._place(node.lineno, node.col_offset), self._place(node.end_lineno, node.end_col_offset)

    def _add(self, kind: str, start: int, end: int, after: str) -> None:
        kind = "default" if self._in_default and kind == "constant" else kind
        self.changes.append((kind, start, end, after))

    def _swap_between(self, left: ast.expr, right: ast.expr, kind: str, before: str, after: str) -> None:
        """Replace an operator between two operands."""
        start, end = self._span(left)[1], self._span(right)[0]
        # Blank out comments, which may lie between the operands of a long line.
        gap = re.sub(r"#.*", lambda match: " " * len(match[0]), self._content[start:end])
        pattern = rf"\b{before.replace(' ', chr(92) + 's+')}\b" if before[0].isalpha() else re.escape(before)
        match = re.search(pattern, gap)
        if match is not None:
            self._add(kind, start + match.start(), start + match.end(), after)

    def visit_Compare(self, node: ast.Compare) -> None:
        """Swap every comparison of a chain."""
        operands = [node.left, *node.comparators]
        for left, operator, right in zip(operands, node.ops, node.comparators, strict=False):
            self._swap_between(left, right, "comparison", *COMPARISONS[type(operator)])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """Swap an arithmetic operator; the | of types and the rest are left alone."""
        if type(node.op) in OPERATORS:
            self._swap_between(node.left, node.right, "arithmetic", *OPERATORS[type(node.op)])
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Swap the operator, or drop the statement."""
        if type(node.op) in OPERATORS:
            before, after = OPERATORS[type(node.op)]
            self._swap_between(node.target, node.value, "arithmetic", f"{before}=", f"{after}=")
        self._drop(node)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """Swap every and/or of a chain."""
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._swap_between(left, right, "boolean", *BOOLEANS[type(node.op)])
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """Drop a negation or a sign."""
        if isinstance(node.op, ast.Not | ast.USub):
            start, end = self._span(node)
            kind = "negation" if isinstance(node.op, ast.Not) else "arithmetic"
            self._add(kind, start, end, self._content[self._span(node.operand)[0] : end])
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Change a number or a truth value."""
        start, end = self._span(node)
        if isinstance(node.value, bool):
            self._add("constant", start, end, str(not node.value))
        elif isinstance(node.value, int):
            for near in (node.value + 1, node.value - 1):
                self._add("constant", start, end, str(near) if near >= 0 else f"({near})")
        elif isinstance(node.value, float):
            for scaled in (2 * node.value, node.value / 2) if node.value else (1.0,):
                self._add("constant", start, end, repr(scaled))

    def visit_Call(self, node: ast.Call) -> None:
        """Swap min and max, any and all."""
        name = node.func
        start, end = self._span(name)
        if isinstance(name, ast.Name) and name.id in EXTREMES:
            self._add("extreme", start, end, EXTREMES[name.id])
        elif isinstance(name, ast.Attribute) and name.attr in EXTREMES:
            self._add("extreme", end - len(name.attr), end, EXTREMES[name.attr])
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        """Drop a call; docstrings are left alone."""
        if not isinstance(node.value, ast.Constant):
            self._drop(node)
            self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        """Drop a raise; its message is left alone."""
        self._drop(node)

    def visit_Break(self, node: ast.Break) -> None:
        """Drop a break."""
        self._drop(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        """Drop a continue."""
        self._drop(node)

    def _drop(self, node: ast.stmt) -> None:
        self._add("statement", *self._span(node), "pass")

    def visit_Assert(self, node: ast.Assert) -> None:
        """Leave assertions alone."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Leave the texts of messages alone."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Change the value of a field, not its annotation."""
        if node.value is not None:
            self._visit_default(node.value)

    def visit_arguments(self, node: ast.arguments) -> None:
        """Change the defaults of arguments, not their annotations."""
        for default in (*node.defaults, *(one for one in node.kw_defaults if one is not None)):
            self._visit_default(default)

    def _visit_default(self, node: ast.expr) -> None:
        outer, self._in_default = self._in_default, True
        self.visit(node)
        self._in_default = outer

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Visit arguments and body; decorators and the annotation of the result are left alone."""
        self.visit(node.args)
        self._visit_all(node.body)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Visit the body; decorators and bases are left alone."""
        self._visit_all(node.body)

    def _visit_all(self, statements: Sequence[ast.stmt]) -> None:
        for statement in statements:
            self.visit(statement)


def find_mutants(group: str, file: str, content: str) -> list[Mutant]:
    """Return all mutants of a file that Python can compile, in order of their places."""
    finder = _Finder(content)
    finder.visit(ast.parse(content))
    sha256 = hashlib.sha256(content.encode("utf-8")).hexdigest()
    mutants = []
    for kind, start, end, after in sorted(set(finder.changes), key=lambda change: (change[1], change[2], change[3])):
        line = content.count("\n", 0, start) + 1
        mutant = Mutant(group, file, line, kind, start, end, content[start:end], after, sha256)
        if _compiles(mutant.apply(content)):
            mutants.append(mutant)
    return mutants


def _compiles(content: str) -> bool:
    try:
        compile(content, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def draw_mutants(group: Group, root: Path, count: int, seed: int) -> list[Mutant]:
    """Draw mutants of a group, one place at a time: no place is changed twice before all have been changed once."""
    found = [one for file in group.files for one in find_mutants(group.name, file, (root / file).read_text("utf-8"))]
    generator = random.Random(f"{seed} {group.name}")
    generator.shuffle(found)
    seen: Counter[tuple[str, int, int]] = Counter()
    turn = {}
    for mutant in found:
        place = (mutant.file, mutant.start, mutant.end)
        turn[mutant.name] = seen[place]
        seen[place] += 1
    return sorted(found, key=lambda mutant: turn[mutant.name])[:count]


@dataclass(frozen=True)
class Result:
    """What became of a mutant, the first test that noticed it, and the time of its tests."""

    mutant: Mutant
    outcome: Outcome
    test: str
    seconds: float


class TestRunner:
    """Runs tests in a copy of the working tree.

    Args:
        root: the working tree; tracked files and untracked ones that git does not ignore are copied.
        folder: where the copy goes.
    """

    __test__ = False  # no class of tests

    def __init__(self, root: Path, folder: Path) -> None:
        self._folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=root,
            capture_output=True,
            check=True,
        ).stdout.decode()
        for name in filter(None, listed.split("\0")):
            source, target = root / name, folder / name
            if source.is_file():  # a deleted file is still listed
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        self._limits: dict[str, float] = {}

    def _pytest(self, tests: Sequence[str], limit: float | None) -> tuple[int | None, str, float]:
        """Return the exit status (None: out of time), the output and the time in seconds."""
        # A mutant has the size and, within a second, the time of its file: compiled files would hide it.
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        start = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=self._folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)  # with the processes that a test has started
            process.communicate()
            return None, "", time.monotonic() - start
        return process.returncode, output, time.monotonic() - start

    def check(self, group: Group) -> float:
        """Run a group's tests on the unchanged copy and return their limit in seconds.

        Raises:
            ValueError: they fail.
        """
        if group.name not in self._limits:
            status, output, seconds = self._pytest(group.tests, None)
            if status != 0:
                raise ValueError(f"{group.name}: the tests fail without a mutant:\n{output[-2000:]}")
            self._limits[group.name] = max(MIN_SECONDS, TIMES_BASELINE * seconds)
        return self._limits[group.name]

    def run(self, mutant: Mutant, group: Group) -> Result:
        """Run the tests of a group on a mutant.

        Raises:
            ValueError: pytest itself failed.
        """
        limit, path = self.check(group), self._folder / mutant.file
        content = path.read_text("utf-8")
        path.write_text(mutant.apply(content), "utf-8")
        try:
            status, output, seconds = self._pytest(group.tests, limit)
        finally:
            path.write_text(content, "utf-8")
        if status is None:
            return Result(mutant, Outcome.TIMEOUT, "", round(seconds, 1))
        if status == 0:
            return Result(mutant, Outcome.SURVIVED, "", round(seconds, 1))
        noticed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
        if noticed is None and "Error" not in output:
            raise ValueError(f"{group.name}: pytest ended with {status}:\n{output[-2000:]}")
        return Result(mutant, Outcome.KILLED, noticed[1] if noticed else "", round(seconds, 1))


def result_to_line(result: Result) -> str:
    """Return a result as a line of JSON."""
    content = {"name": result.mutant.name, **asdict(result.mutant), "outcome": result.outcome.value}
    return json.dumps(content | {"test": result.test, "seconds": result.seconds}) + "\n"


def read_results(path: Path) -> dict[str, Result]:
    """Read results by the mutants' names; a last line that was cut off is ignored."""
    results = {}
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        if not line.endswith("\n"):
            continue
        try:
            content = json.loads(line)
            mutant = Mutant(**{name: content[name] for name in Mutant.__dataclass_fields__})
            results[content["name"]] = Result(mutant, Outcome(content["outcome"]), content["test"], content["seconds"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: not a result of this script ({error!r}); delete it") from error
    return results


def report(results: Sequence[Result], root: Path) -> Iterator[str]:
    """Yield the kill rate of every group and kind, and the survivors with their lines."""
    if not results:
        yield "no results"
        return
    for title, key in (("group", lambda one: one.mutant.group), ("kind", lambda one: one.mutant.kind)):
        totals = Counter(map(key, results))
        alive = Counter(key(one) for one in results if one.outcome is Outcome.SURVIVED)
        for name, total in sorted(totals.items()):
            yield f"{title} {name}: {total - alive[name]} of {total} killed"
    survivors = [one for one in results if one.outcome is Outcome.SURVIVED]
    num_killed = len(results) - len(survivors)
    yield f"all: {num_killed} of {len(results)} killed ({100 * num_killed / len(results):.1f}%)"
    for one in survivors:
        content = (root / one.mutant.file).read_text("utf-8") if (root / one.mutant.file).is_file() else ""
        is_current = hashlib.sha256(content.encode("utf-8")).hexdigest() == one.mutant.content_sha256
        change = one.mutant.diff(content) if is_current else f"- {one.mutant.before}\n    + {one.mutant.after}"
        yield f"survivor {one.mutant.name} {one.mutant.file}:{one.mutant.line} ({one.mutant.kind})\n    {change}"


def run_mutants(mutants: Sequence[Mutant], groups: Mapping[str, Group], root: Path, output: Path) -> list[Result]:
    """Run the mutants without a result in `output`, and return the results of all."""
    known = read_results(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    _drop_cut_line(output)
    pending = [mutant for mutant in mutants if mutant.name not in known]
    print(f"{len(mutants)} mutants, {len(mutants) - len(pending)} of them known", flush=True)
    if pending:
        with tempfile.TemporaryDirectory(prefix="mutants_") as place:
            runner = TestRunner(root, Path(place))
            for number, mutant in enumerate(pending, start=1):
                result = runner.run(mutant, groups[mutant.group])
                with output.open("a", encoding="utf-8") as file:
                    file.write(result_to_line(result))
                known[mutant.name] = result
                place_of = f"{mutant.file}:{mutant.line}"
                print(f"[{number}/{len(pending)}] {result.outcome.value}: {place_of} ({mutant.kind})", flush=True)
    return [known[mutant.name] for mutant in mutants]


def _drop_cut_line(path: Path) -> None:
    """Remove the end of a last line that an interrupted run left."""
    if path.is_file():
        content = path.read_bytes()
        path.write_bytes(content[: content.rfind(b"\n") + 1])


def build_parser() -> argparse.ArgumentParser:
    """Return the script's parser."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--groups", default="", help="names with commas between; default all of the table")
    parser.add_argument("--mutants", type=int, default=20, help="mutants drawn from each group (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (default: 0)")
    parser.add_argument("--table", type=Path, default=TABLE, help=f"table of groups (default: {TABLE.name})")
    parser.add_argument("--output", type=Path, default=Path("runs/mutants.jsonl"), help="results, a JSON line each")
    parser.add_argument("--list", action="store_true", help="print the drawn mutants and run nothing")
    parser.add_argument("--report", action="store_true", help="report all results of --output and run nothing")
    return parser


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Draw, run and report mutants; the status is 1 if any survived."""
    parser = build_parser()
    parsed = parser.parse_args(arguments)
    try:
        groups = read_groups(parsed.table, root)
        names = [name for name in parsed.groups.split(",") if name] or list(groups)
        if unknown := [name for name in names if name not in groups]:
            raise ValueError(f"unknown group {unknown[0]}; the groups are {', '.join(groups)}")
        if parsed.report:
            results = [one for one in read_results(parsed.output).values() if one.mutant.group in names]
        else:
            drawn = [one for name in names for one in draw_mutants(groups[name], root, parsed.mutants, parsed.seed)]
            if parsed.list:
                for mutant in drawn:
                    change = mutant.diff((root / mutant.file).read_text("utf-8"))
                    print(f"{mutant.name} {mutant.file}:{mutant.line} ({mutant.kind})\n    {change}")
                return 0
            results = run_mutants(drawn, groups, root, parsed.output)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{error}\n")
    for line in report(results, root):
        print(line)
    return int(any(one.outcome is Outcome.SURVIVED for one in results))


if __name__ == "__main__":
    sys.exit(main())

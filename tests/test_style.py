"""The house style that a linter cannot check: size of functions, types, one spelling of every fact.

Directions of imports are held by import-linter (pyproject.toml).
"""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("plum", "partonomy", "scripts")
MAX_FUNCTION_LINES = 70
MIN_TYPED_SHARE = 0.95
# Label Studio's addresses of images begin with /data/.
MACHINE_PATH = re.compile(
    r"(?<![\w.{$/])/(?!data/(?:upload|local-files)/)(?:home|Users|root|work|mnt|data\d*|scratch|nfs|gpfs)/[\w.]"
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def source_files() -> list[Path]:
    """The project's Python files, tests apart."""
    return [*sorted(ROOT.glob("*.py")), *[path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]]


def shipped_texts() -> list[Path]:
    """Everything a user reads or runs."""
    suffixes = ("*.yaml", "*.sh", "*.md", "*.toml", "*.j2")
    folders = [ROOT / name for name in (*PACKAGES, "configs", "docs")]
    others = [path for folder in folders for suffix in suffixes for path in sorted(folder.rglob(suffix))]
    return [*source_files(), *sorted((ROOT / "tests").rglob("*.py")), ROOT / "README.md", *others]


SOURCES = source_files()


@functools.cache
def trees() -> dict[Path, ast.Module]:
    """The syntax tree of every source file; parsed by the first test that asks, not by every collection."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}


def functions(tree: ast.AST) -> Iterator[Function]:
    """All functions and methods, nested ones included."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def test_the_scan_sees_the_project() -> None:
    assert len(SOURCES) > 120
    assert {"train.py", "plum.py", "iou.py", "ablation_table.py"} <= {path.name for path in SOURCES}


def test_functions_are_short() -> None:
    long = [
        f"{path}:{node.lineno} {node.name}: {_num_lines(node)} lines"
        for path, tree in trees().items()
        for node in functions(tree)
        if _num_lines(node) > MAX_FUNCTION_LINES
    ]
    assert long == []


def _num_lines(node: Function) -> int:
    """Lines of a function without its docstring."""
    first = node.body[0]
    has_docstring = ast.get_docstring(node, clean=False) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if has_docstring else 0
    return (node.end_lineno or 0) - node.lineno + 1 - docstring


def test_arguments_are_typed() -> None:
    typed, untyped = 0, []
    for path, tree in trees().items():
        for node in functions(tree):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            arguments += [argument for argument in (node.args.vararg, node.args.kwarg) if argument is not None]
            for argument in arguments:
                if argument.arg in ("self", "cls"):
                    continue
                typed += argument.annotation is not None
                untyped += [f"{path}:{argument.lineno} {argument.arg}"] if argument.annotation is None else []
    assert typed / (typed + len(untyped)) >= MIN_TYPED_SHARE, untyped


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_swallowed_or_left_behind(path: Path) -> None:
    found = []
    for node in ast.walk(trees()[path]):
        if isinstance(node, ast.ExceptHandler):
            names = {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)} if node.type else set()
            if node.type is None or (names & {"Exception", "BaseException"} and not _is_reported(node)):
                found.append(f"line {node.lineno}: everything is caught")
            if all(isinstance(line, ast.Pass) for line in node.body):
                found.append(f"line {node.lineno}: an error is passed over")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("breakpoint", "pdb.set_trace", "eval", "exec"):
            found.append(f"line {node.lineno}: {ast.unparse(node.func)}")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            if not any(keyword.arg == "weights_only" for keyword in node.keywords):
                found.append(f"line {node.lineno}: torch.load without weights_only")
        elif isinstance(node, Function) and node.args.kwarg is not None:
            found.append(f"line {node.lineno}: **{node.args.kwarg.arg} swallows mistyped names")
        elif isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            found.append(f"line {node.value.lineno}: trust_remote_code")
    assert found == []


def _is_reported(handler: ast.ExceptHandler) -> bool:
    """Whether a broad handler uses the error it caught."""
    used = {node.id for line in handler.body for node in ast.walk(line) if isinstance(node, ast.Name)}
    return handler.name in used or any(isinstance(line, ast.Raise) for line in handler.body)


def test_no_path_of_one_machine() -> None:
    found = []
    for path in shipped_texts():
        if path == Path(__file__).resolve():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if MACHINE_PATH.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert found == []


def test_the_path_pattern_finds_what_it_should() -> None:
    for line in ('open("/home/ann/x")', "cd /work/here", "--images /Users/bob/photos", "/root/.cache"):
        assert MACHINE_PATH.search(line), line
    for line in ("https://x.org/home/page", "runs/work/x", "s/data/x", "../shared/data", '"/nowhere"'):
        assert not MACHINE_PATH.search(line), line


def test_every_module_says_what_it_does() -> None:
    missing = [str(path) for path, tree in trees().items() if tree.body and ast.get_docstring(tree) is None]
    assert missing == []

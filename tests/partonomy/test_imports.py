import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "partonomy"


def imported_packages(path: Path) -> set[str]:
    """Top-level names of every import of a file, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            callee = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if callee in {"import_module", "__import__"}:
                names.add(str(node.args[0].value).split(".")[0])
    return names


def test_partonomy_never_imports_plum() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 20
    assert [str(path) for path in files if "plum" in imported_packages(path)] == []


def test_the_scan_finds_every_form_of_import(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    for line in ("import plum.config", "from plum import x", "def f():\n    import plum", "import_module('plum.x')"):
        path.write_text(line)
        assert imported_packages(path) == {"plum"}

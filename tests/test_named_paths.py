"""Comments, docstrings and documents name files and modules that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATED = {ROOT / "docs" / "LOG.md"}  # its entries name files as they were called at the time
SUFFIXES = {".py", ".yaml", ".md", ".sh", ".toml", ".j2"}
NAMED_PATH = re.compile(
    r"(?<![\w./-])((?:partonomy|plum|scripts|configs|docs|tests)/[\w./-]*\.(?:py|yaml|csv|md|sh|j2|jpg|toml)"
    r"|(?:partonomy|plum|scripts|configs|docs)/(?:[\w-]+/)+)(?![\w*<{])"
)
NAMED_MODULE = re.compile(r"`((?:partonomy|plum)(?:\.[A-Za-z_]\w*)+)`")


def texts() -> list[Path]:
    """Everything a reader reads, this file and the log apart."""
    folders = [ROOT / name for name in ("partonomy", "plum", "scripts", "configs", "docs")]
    found = [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in SUFFIXES]
    return [path for path in (*found, ROOT / "README.md", ROOT / "pyproject.toml") if path not in DATED]


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or a class, function or constant of one."""
    words = name.split(".")
    for end in range(len(words), 0, -1):
        base = ROOT.joinpath(*words[:end])
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                text = path.read_text(encoding="utf-8")
                return end == len(words) or bool(
                    re.search(rf"^(?:(?:def|class) )?{words[end]}\b|import .*\b{words[end]}\b", text, re.MULTILINE)
                )
    return False


def test_the_patterns_find_what_they_should() -> None:
    assert NAMED_PATH.findall("# rows of partonomy/paper_rows/table2.csv (quoted)") == [
        "partonomy/paper_rows/table2.csv"
    ]
    assert NAMED_PATH.findall("a file in `partonomy/datasets/sources/`") == ["partonomy/datasets/sources/"]
    assert NAMED_PATH.findall("runs/plum/x.py, ../plum/x.py, plum/<name>.yaml") == []
    assert NAMED_MODULE.findall("see `partonomy.files.read_json`") == ["partonomy.files.read_json"]
    assert resolves("partonomy.files.read_json")
    assert resolves("plum.losses")
    assert not resolves("partonomy.files.read_jso")
    assert not resolves("partonomy.no_such_module")


def test_every_named_path_exists() -> None:
    missing = []
    for path in texts():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            missing += [
                f"{path.relative_to(ROOT)}:{number}: {name}"
                for name in NAMED_PATH.findall(line)
                if not (ROOT / name).exists()
            ]
    assert missing == []


def test_every_named_module_exists() -> None:
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in texts()
        for name in NAMED_MODULE.findall(path.read_text(encoding="utf-8"))
        if not resolves(name)
    ]
    assert missing == []

"""The documentation builds as a site without a broken link, and its generated references leave nothing out."""

import html
import importlib.util
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from partonomy.__main__ import COMMANDS as PARTONOMY_COMMANDS
from partonomy.benchmarks.registry import BENCHMARKS
from plum.cli.commands import COMMANDS as PLUM_COMMANDS
from plum.train_config import DataConfig, LossConfig, TrainConfig

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "docs" / "site" / "mkdocs.yml"
NEEDED = ("mkdocs", "material", "mkdocstrings")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"the site needs {', '.join(MISSING)} (requirements-dev.txt)"),
]


def build(target: Path, config: Path = CONFIG) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(target)]
    return subprocess.run(command, cwd=target.parent, capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    target = tmp_path_factory.mktemp("site") / "pages"
    done = build(target)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def text_of(page: Path) -> str:
    """The words of a page."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_every_page_is_on_the_site(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    built = {path.relative_to(site) for path in site.rglob("*.html")}
    assert len(pages) > 25
    assert pages <= built
    assert {Path("index.html"), Path("changelog.html")} <= built


def test_the_front_page_is_the_readme(site: Path) -> None:
    page = text_of(site / "index.html")
    for title in re.findall(r"^## (.+)$", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE):
        assert title in page


def test_no_page_asks_another_server(site: Path) -> None:
    pattern = re.compile(
        r"""<(?:script|img|iframe)[^>]+src=["']?https?://|<link[^>]+stylesheet[^>]+href=["']?https?://"""
    )
    assert [str(path) for path in site.rglob("*.html") if pattern.search(path.read_text(encoding="utf-8"))] == []


def test_the_configuration_reference_has_every_key_with_its_default(site: Path) -> None:
    page = (site / "config.html").read_text(encoding="utf-8")
    text = text_of(site / "config.html")
    for block in (TrainConfig, DataConfig, LossConfig):
        assert [field.name for field in fields(block) if f"<code>{field.name}</code>" not in page] == []
    (row,) = re.findall(r"<tr>\s*<td><code>tversky_alpha</code></td>.*?</tr>", page, flags=re.DOTALL)
    assert [part in row for part in ("float", "0.7", "Weight of false negatives.")] == [True] * 3
    (row,) = re.findall(r"<tr>\s*<td><code>pixel_loss</code></td>.*?</tr>", page, flags=re.DOTALL)
    assert "bce or focal" in row
    assert "model.calico.adaptation" in text


def test_the_command_reference_has_every_command(site: Path) -> None:
    text = text_of(site / "cli.html").replace(" [options]", "")
    commands = [f"python -m plum {name}" for name in PLUM_COMMANDS]
    commands += [f"python -m partonomy {command.name}" for command in PARTONOMY_COMMANDS if command.name != "run"]
    commands += [f"python -m partonomy run {name}" for name in BENCHMARKS]
    usages = [" ".join(usage.split()) for usage in re.findall(r"(?=usage: (.{0,120}))", text, flags=re.DOTALL)]
    assert [command for command in commands if not any(usage.startswith(command) for usage in usages)] == []
    assert "--part_comparison" in text


def test_the_api_reference_has_arguments_and_errors(site: Path) -> None:
    text = text_of(site / "api.html")
    for words in ("Open a saved model for questions and highlights.", "max_new_tokens", "score_choices", "Raises:"):
        assert words in text


def test_a_broken_link_fails(tmp_path: Path) -> None:
    """The settings of mkdocs.yml make a lost page, a lost anchor and a page without a place errors."""
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "index.md").write_text("# Home\n\n[lost](gone.md) and [nowhere](index.md#nowhere)\n")
    (tmp_path / "pages" / "forgotten.md").write_text("# Forgotten\n")
    text = CONFIG.read_text(encoding="utf-8")
    validation = text[text.index("validation:") : text.index("nav:\n  - Home")]
    config = tmp_path / "mkdocs.yml"
    config.write_text(f"site_name: x\ndocs_dir: pages\n{validation}nav: [index.md]\n")
    done = build(tmp_path / "site", config)
    assert done.returncode != 0
    for words in ("gone.md", "#nowhere", "forgotten.md"):
        assert words in done.stderr

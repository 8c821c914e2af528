import json
import subprocess
import sys

import pytest

from tests.readme_commands import ROOT

HEAVY = ("torch", "transformers", "peft", "deepspeed", "accelerate", "cv2", "sklearn", "matplotlib", "gradio")
SHOW = """
import json, sys
sys.argv = [sys.argv[1], *json.loads(sys.argv[2])]
try:
    __import__(f"{sys.argv[0]}.__main__", fromlist=["run"]).run()
finally:
    print("IMPORTED", json.dumps(sorted(sys.modules)))
"""


@pytest.mark.parametrize(
    ("package", "words", "status"),
    [
        ("plum", ["-h"], 0),
        ("plum", [], 2),
        ("plum", ["segmnet", "--image", "x"], 2),
        ("plum", ["segment", "-h"], 0),
        ("plum", ["segment", "--imagee", "x"], 2),
        ("plum", ["predict", "--help"], 0),
        ("plum", ["predict", "photos", "--max_new_tokens", "0"], 2),
        ("plum", ["chat", "-h"], 0),
        ("plum", ["demo", "-h"], 0),
        ("plum", ["export", "-h"], 0),
        ("plum", ["data-status", "-h"], 0),
        ("partonomy", ["-h"], 0),
        ("partonomy", ["biuld"], 2),
    ],
)
def test_help_and_typing_errors_import_nothing_heavy(package: str, words: list[str], status: int) -> None:
    command = [sys.executable, "-c", SHOW, package, json.dumps(words)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == status, run.stderr
    imported = json.loads(run.stdout.rpartition("IMPORTED ")[2])
    assert package in imported
    assert [name for name in HEAVY if name in imported] == []
    if words[:1] == ["-h"]:
        assert "export" in run.stdout


def test_the_installed_commands_exist() -> None:
    content = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'plum = "plum.__main__:run"' in content
    assert 'partonomy = "partonomy.__main__:run"' in content

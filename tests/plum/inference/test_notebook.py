"""The notebook runs from its first cell to its last on a tiny model, and shows what its text promises.

A kernel would bring Jupyter's packages, so a small runner executes the code cells in one namespace. The notebook
therefore has no magics.
"""

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plum.checkpoints.store import save_pretrained
from plum.inference.image_prediction import ImagePrediction
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.predictor_world import make_image, make_model
from tests.readme_commands import ROOT

NOTEBOOK = ROOT / "docs" / "notebooks" / "quickstart.ipynb"


def _code_cells() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def _run_cell(source: str, names: dict[str, Any]) -> object:
    """Execute a cell and return what a notebook would show below it: the value of its last line, if that has one."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, NOTEBOOK.name, "exec"), names)
    if last is None:
        return None
    assert isinstance(last, ast.Expr)
    return eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names)


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_pretrained(make_model(), byte_level(), tmp_path / "runs" / "quickstart" / "model", "")
    Image.fromarray(make_image()).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    shown = [_run_cell(source, names) for source in _code_cells()]
    _, asked, table, highlighted, plot, files = shown
    assert isinstance(asked, ImagePrediction)
    assert "data:image/png;base64," in asked._repr_html_()
    assert isinstance(highlighted, ImagePrediction)
    assert highlighted.phrases == ("wheel", "door")
    assert isinstance(plot, Image.Image)
    assert files == ["masks/001.png", "masks/002.png", "overlay.png", "prediction.json"]
    rows = zip(asked.phrases, asked.masks, asked.boxes, strict=True)
    assert table == [(phrase, np.count_nonzero(mask), box.tolist()) for phrase, mask, box in rows]


def test_the_notebook_is_stored_without_results() -> None:
    content = json.loads(NOTEBOOK.read_text())
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    for cell in content["cells"]:
        assert cell["cell_type"] in ("code", "markdown")
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None

"""`plum push`, `plum pull` and `plum.load(name)` against a fake of the Hub's HTTP interface."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from partonomy.harness.summary import GroupSummary, Summary, write_summary
from partonomy.metrics.bootstrap import Estimate
from plum.checkpoints.hub import pull_model
from plum.checkpoints.store import save_pretrained, save_trained
from plum.export.card_metadata import TAGS
from plum.export.hub_upload import UploadRequest, hub_card, push_model
from tests.fake_hub import FakeHub, fake_hub, run_with_hub
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.predictor_world import make_model


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as server:
        yield server


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_pretrained(make_model(), byte_level(), tmp_path / "saved", "# A card\n\nTrained here.\n")
    (tmp_path / "saved" / "optimizer.pt").write_bytes(b"a pickle")
    (tmp_path / "saved" / "modeling.py").write_text("import os")
    return tmp_path / "saved"


def test_a_pushed_model_is_pulled_and_loaded_by_its_name(hub: FakeHub, saved: Path, tmp_path: Path) -> None:
    pushed = run_with_hub(hub, tmp_path, "-m", "plum", "push", "saved", "org/parts", "--private", "--license", "mit")
    assert pushed.returncode == 0, pushed.stderr
    repository = hub.repositories["org/parts"]
    assert repository.visibility == "private"
    assert len(repository.commits) == 1
    files = repository.branches["main"]
    own = {path.name for path in saved.iterdir()}
    assert set(files) == own - {"optimizer.pt", "modeling.py"}
    assert {"config.json", "model.safetensors", "model.crc32", "README.md"} <= set(files)
    assert all(content == (saved / name).read_bytes() for name, content in files.items() if name != "README.md")
    card = ModelCard(files["README.md"].decode())
    assert (card.data.license, card.text.strip()) == ("mit", "# A card\n\nTrained here.")
    assert f"/org/parts/commit/{repository.sha('main')}" in pushed.stdout

    pulled = run_with_hub(hub, tmp_path, "-m", "plum", "pull", "org/parts", "here/pulled")
    assert pulled.returncode == 0, pulled.stderr
    assert {path.name for path in (tmp_path / "here" / "pulled").iterdir()} == set(files)
    assert all((tmp_path / "here" / "pulled" / name).read_bytes() == content for name, content in files.items())
    with pytest.raises(FileExistsError, match="pulled is not empty; name a new folder"):
        pull_model("org/parts", tmp_path / "here" / "pulled")

    program = (
        "import numpy, plum; m = plum.load('org/parts', device='cpu'); "
        "p = m.highlight(numpy.zeros((20, 28, 3), numpy.uint8), 'It has a wheel.', ['wheel']); print(p.phrases)"
    )
    loaded = run_with_hub(hub, tmp_path, "-c", program)
    assert loaded.stdout == "('wheel',)\n", loaded.stderr


def test_a_branch_is_written_and_read(hub: FakeHub, saved: Path, tmp_path: Path) -> None:
    flags = ("--revision", "trial", "--tags", "again")
    pushed = run_with_hub(hub, tmp_path, "-m", "plum", "push", "saved", "org/parts", *flags)
    assert pushed.returncode == 0, pushed.stderr
    repository = hub.repositories["org/parts"]
    assert repository.visibility == "public"
    assert repository.branches["main"] == {}
    pulled = run_with_hub(hub, tmp_path, "-m", "plum", "pull", "org/parts", "trial", "--revision", "trial")
    assert pulled.returncode == 0, pulled.stderr
    assert "again" in ModelCard.load(tmp_path / "trial" / "README.md").data.tags


def test_what_goes_wrong_with_the_hub_is_one_line(hub: FakeHub, saved: Path, tmp_path: Path) -> None:
    refused = run_with_hub(hub, tmp_path, "-m", "plum", "push", "saved", "org/parts", HF_TOKEN="hf_wrong")
    assert refused.returncode == 1
    assert "org/parts: the Hugging Face Hub did not take saved" in refused.stderr
    assert "hf auth whoami" in refused.stderr
    missing = run_with_hub(hub, tmp_path, "-m", "plum", "pull", "org/nothing", "pulled")
    assert missing.returncode == 1
    assert "org/nothing: no such folder here, and it could not be downloaded" in missing.stderr
    for found in (refused, missing):
        assert len(found.stderr.strip().splitlines()) == 1, found.stderr
        assert "Traceback" not in found.stderr


@pytest.mark.parametrize("name", ["parts", "org/parts/more", "../parts", "org/", "/org/parts"])
def test_a_name_that_is_not_one_of_the_hub_is_refused(saved: Path, name: str) -> None:
    with pytest.raises(ValueError, match="write organisation/name"):
        push_model(UploadRequest(saved, name))


def test_what_others_could_not_load_is_not_pushed(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        push_model(UploadRequest(tmp_path / "nowhere", "org/parts"))
    (tmp_path / "empty").mkdir()
    with pytest.raises((FileNotFoundError, ValueError), match="config.json"):
        push_model(UploadRequest(tmp_path / "empty", "org/parts"))
    model = make_model()
    next(iter(model.parameters())).requires_grad_(True)
    save_trained(model, byte_level(), tmp_path / "trained", "", saved)
    with pytest.raises(ValueError, match="merge them first: python -m plum export"):
        push_model(UploadRequest(tmp_path / "trained", "org/parts"))


def _summary() -> Summary:
    positive = {"giou_micro_paired": Estimate(0.25, 0.2, 0.3, 9), "parts_accuracy": Estimate(0.5, 0.4, 0.6, 9)}
    negative = {"parts_accuracy": Estimate(0.75, None, None, 4), "unquoted": Estimate(0.1, 0.0, 0.2, 4)}
    groups = {
        "positive": GroupSummary("positive", 9, 9, 0, {}, positive),
        "negative": GroupSummary("negative", 4, 4, 0, {}, negative),
    }
    provenance = {
        "config": {"model": {"model": "plum", "checkpoint": "m", "base": False}, "limit": None, "content_hash": None}
    }
    provenance["dataset"] = {"name": "partonomy", "content_hash": "0"}
    return Summary("partonomy", "validation", "teacher", "1.0", "parts_accuracy", provenance, 1.0, groups)


def test_the_card_gets_scores_and_keeps_its_own_metadata(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write_summary(_summary(), tmp_path / "run" / "summary.json")
    text = "---\nlicense: apache-2.0\ntags:\n- cars\nbase_model: org/base\ndatasets: photos\n---\n\n# Own\n"
    (saved / "README.md").write_text(text)
    request = UploadRequest(
        saved, "org/parts", tags=("more", "cars"), datasets=("mine",), summaries=(tmp_path / "run",)
    )
    card = ModelCard(hub_card(request))
    assert (card.data.license, card.data.base_model) == ("apache-2.0", "org/base")
    assert (card.data.tags, card.data.datasets) == (["cars", "more"], ["photos", "mine"])
    assert card.text.strip() == "# Own"
    found = {(one.dataset_config, one.metric_type): (one.metric_value, one.task_type) for one in card.data.eval_results}
    assert found == {
        ("positive", "giou_micro_paired"): (0.25, "image-segmentation"),
        ("positive", "parts_accuracy"): (0.5, "visual-question-answering"),
        ("negative", "parts_accuracy"): (0.75, "visual-question-answering"),
    }
    assert {one.dataset_split for one in card.data.eval_results} == {"validation"}
    with pytest.raises(FileNotFoundError, match="no such summary"):
        hub_card(UploadRequest(saved, "org/parts", summaries=(tmp_path / "nothing",)))


def test_a_model_without_a_card_gets_one(saved: Path) -> None:
    (saved / "README.md").unlink()
    card = ModelCard(hub_card(UploadRequest(saved, "org/parts", base_model="org/base")))
    assert (card.data.library_name, card.data.license, card.data.base_model) == ("plum", "other", "org/base")
    assert tuple(card.data.tags) == TAGS
    assert card.text.strip() == "# parts"
    assert json.loads((saved / "config.json").read_text())  # untouched


def test_damaged_metadata_are_named(saved: Path) -> None:
    (saved / "README.md").write_text("---\nlicense: [\n---\n# Own\n")
    with pytest.raises(ValueError, match=r"README\.md: the metadata .* not valid YAML.*; correct or delete them"):
        hub_card(UploadRequest(saved, "org/parts"))

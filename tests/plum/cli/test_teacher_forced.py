"""`python -m plum teacher-forced` on referring expressions, and Table 12 made of its file."""

import json
from pathlib import Path

import pytest
import torch

from partonomy.__main__ import main as partonomy
from partonomy.benchmarks.refcoco import read_referring
from plum.checkpoints.store import load_pretrained, save_pretrained
from plum.cli.main import main
from plum.data.collate import Collator
from plum.data.mixture import MixtureDataset
from plum.data.sources.referring import ReferringSource
from plum.inputs.bio_labels import Tag
from plum.structures import IGNORE_INDEX
from plum.train_config import DataConfig
from tests.plum.data.miniature_world import miniature
from tests.plum.data.tokenizers_for_tests import byte_level
from tests.plum.predictor_world import make_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    save_pretrained(make_model(), byte_level(), folder, "A random model.")
    return str(folder)


def measure(checkpoint: str, output: Path, *flags: str) -> int:
    return main(["teacher-forced", "--checkpoint", checkpoint, "--output", str(output), "--device", "cpu", *flags])


def test_expressions_are_tagged_as_in_training(checkpoint: str, tmp_path: Path) -> None:
    """By hand from the model's own tags, image by image, on the split that was named."""
    output = tmp_path / "tags.json"
    flags = ("--referring", "refcoco", "refcoco:train", "--root", str(miniature()), "--limit", "3")
    assert measure(checkpoint, output, *flags) == 0
    found = json.loads(output.read_text())
    assert list(found) == ["refcoco val", "refcoco train"]
    loaded = load_pretrained(checkpoint, torch.device("cpu"), torch.float32)
    for split, num_images in (("val", 1), ("train", 3)):
        result = found[f"refcoco {split}"]
        assert result["num_images"] == num_images
        data = DataConfig(sources=())
        source = ReferringSource("x", read_referring(miniature(), "refcoco", split), data.conversations_per_image)
        stream, collate = MixtureDataset((source,), (1.0,), seed=0), Collator(loaded.tokenizer, loaded.config, data)
        hits, totals, tokens = dict.fromkeys(Tag, 0), dict.fromkeys(Tag, 0), 0
        for position in range(num_images):
            batch = collate([stream[position]])
            with torch.no_grad():
                states = loaded.model.eval()(batch.without_sam(), with_teacher=False).hidden_states
                tagged = loaded.model.tag(states, batch.attention_mask)
            assert tagged is not None
            tokens += int((batch.labels[:, 1:] != IGNORE_INDEX).sum())
            for tag in Tag:
                hits[tag] += int(((batch.tags == tag) & (tagged.argmax(-1) == tag)).sum())
                totals[tag] += int((batch.tags == tag).sum())
        assert result["num_answer_tokens"] == tokens
        assert totals[Tag.B] >= num_images
        assert result["tags"] == {tag.name: pytest.approx(hits[tag] / totals[tag]) for tag in Tag}


def test_the_file_makes_table_12(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "bi" / "teacher_forced.json"
    assert measure(checkpoint, output, "--referring", "refcoco:train", "--root", str(miniature()), "--limit", "2") == 0
    content = json.loads(output.read_text())["refcoco train"]
    assert content["num_images"] == 2
    capsys.readouterr()
    assert partonomy(["tables", str(output.parent), "--table", "12"]) == 0
    printed = capsys.readouterr().out
    assert "PLUM (no bi, RefCOCO)" in printed
    (row,) = [line for line in printed.splitlines() if "refcoco train, 2 images" in line and "answer tokens" in line]
    assert row.split()[-3:] == [f"{100 * content['tags'][tag]:.1f}" for tag in "BIO"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "nothing to measure: give --data FOLDER"),
        (("--referring", "refcoco"), "--referring and --root belong together"),
        (("--data", "x", "--root", "x"), "--referring and --root belong together"),
        (("--data", "x", "--limit", "0"), "--limit 0: at least 1"),
        (("--referring", "refcocos", "--root", "{root}"), "refcocos"),
        (("--referring", "refcoco:odd", "--root", "{root}"), "odd"),
        (("--referring", "refcoco", "--root", "{root}/nothing"), "nothing/refer_seg"),
    ],
)
def test_wrong_settings_are_one_line(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str
) -> None:
    words = [flag.format(root=miniature()) for flag in flags]
    assert measure(checkpoint, tmp_path / "out.json", *words) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert len([line for line in error.splitlines() if line.startswith(("error", "Traceback"))]) == 1

import json
from pathlib import Path

import pytest

from partonomy.benchmarks.textvqa import read_textvqa, textvqa_prompt, textvqa_score
from partonomy.benchmarks.vqa import VqaProtocol
from tests.partonomy.benchmarks.vqa_world import TEN, textvqa_record, write_textvqa

OFFICIAL, COMPAT = VqaProtocol.LLAVA_OFFICIAL, VqaProtocol.PARTONOMY_COMPAT


def test_items_and_prompts(tmp_path: Path) -> None:
    write_textvqa(tmp_path)
    first, second, third = read_textvqa(tmp_path, "val", with_ocr=True)
    assert (first.item_id, first.image_id, first.answers) == ("34602", "aa", TEN)
    assert first.image_path == tmp_path / "train_images" / "aa.jpg"
    assert second.image_id == third.image_id == "bb"
    assert textvqa_prompt(first, OFFICIAL) == (
        "what is the brand of camera 34602?\nReference OCR token: DAKOTA, Single-Use\n"
        "Answer the question using a single word or phrase."
    )
    short = "what is the brand of camera 34602?{}Answer the question using a single word or phrase."
    assert textvqa_prompt(first, COMPAT) == short.format(" ")
    (without, *_) = read_textvqa(tmp_path, "val", with_ocr=False)
    assert textvqa_prompt(without, OFFICIAL) == short.format("\n")


def test_scores_by_protocol(tmp_path: Path) -> None:
    write_textvqa(tmp_path)
    (item, *_) = read_textvqa(tmp_path, "val", with_ocr=False)
    assert textvqa_score("Nokia.", item, OFFICIAL) == 1.0  # given four times
    assert textvqa_score("dakota digital", item, OFFICIAL) == pytest.approx(0.6)
    assert textvqa_score("It is nokia", item, OFFICIAL) == 0.0
    assert textvqa_score("It is nokia", item, COMPAT) == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": ["one"]}, r"data\[1\].*must have 10 strings"),
        ({"answers": [1] * 10}, r"data\[1\].*must be a list of strings"),
        ({"image_id": "../x"}, r"data\[1\].*leaves the image folder"),
        ({"question": ""}, r"data\[1\].*question"),
        ({"question_id": 1}, "two questions have the id '1'"),
    ],
)
def test_broken_records_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    write_textvqa(tmp_path, [textvqa_record(1, "aa"), {**textvqa_record(2, "bb"), **change}])
    with pytest.raises(ValueError, match=message) as error:
        read_textvqa(tmp_path, "val", with_ocr=False)
    assert "TextVQA_0.5.1_val.json" in str(error.value)


def test_the_test_split_has_no_answers(tmp_path: Path) -> None:
    record = textvqa_record(1, "aa")
    del record["answers"]
    write_textvqa(tmp_path, [record])
    with pytest.raises(ValueError, match=r"data\[0\].*answers"):
        read_textvqa(tmp_path, "val", with_ocr=False)


def test_missing_and_broken_ocr(tmp_path: Path) -> None:
    write_textvqa(tmp_path, [textvqa_record(1, "cc")])
    with pytest.raises(ValueError, match="no entry for the image 'cc'; pass --no_ocr"):
        read_textvqa(tmp_path, "val", with_ocr=True)
    path = tmp_path / "TextVQA_Rosetta_OCR_v0.2_val.json"
    path.write_text(json.dumps({"data": [{"image_id": "cc", "ocr_tokens": "DAKOTA"}]}))
    with pytest.raises(ValueError, match=r"OCR_v0.2_val.json, data\[0\].*list of strings"):
        read_textvqa(tmp_path, "val", with_ocr=True)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="TextVQA_Rosetta_OCR"):
        read_textvqa(tmp_path, "val", with_ocr=True)

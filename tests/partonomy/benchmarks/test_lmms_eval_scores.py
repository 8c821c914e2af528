"""Scores of short answers compared with lmms-eval's own, kept in lmms_eval_scores.json.

The table is written by `python -m scripts.bench.lmms_eval_run --lmms_python ENV/bin/python --write_table FILE`.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from partonomy.benchmarks.pope import pope_score
from partonomy.benchmarks.vqa import VqaItem, VqaProtocol, soft_score
from scripts.bench.lmms_eval_replies import BARE, POPE_REPLIES, TEXTVQA_ANSWERS, TEXTVQA_REPLIES

TABLE: dict[str, Any] = json.loads(Path(__file__).with_name("lmms_eval_scores.json").read_text(encoding="utf-8"))
READ_OTHERWISE = {
    "NO": 1.0,  # LLaVA's script knows No, no and not, so a shouted NO is a yes
    "Yes.": 0.0,
    "No.": 0.0,
    "Yes, there is.": 0.0,
    "No, there is not.": 0.0,
    "There is no wheel in the image.": 0.0,
}
"""Replies that lmms-eval scores otherwise than LLaVA's protocol does, and its score of the label that they mean."""


def test_the_table_has_every_listed_reply() -> None:
    assert [(case["reply"], case["answer"]) for case in TABLE["pope"]] == [
        (reply, answer) for reply in POPE_REPLIES for answer in ("yes", "no")
    ]
    assert [(case["reply"], tuple(case["answers"])) for case in TABLE["textvqa"]] == [
        (reply, answers) for answers in TEXTVQA_ANSWERS for reply in (*TEXTVQA_REPLIES, *answers)
    ]
    assert len({case["score"] for case in TABLE["textvqa"]}) > 4, "a table of zeros shows nothing"


def test_textvqa_scores_are_those_of_lmms_eval() -> None:
    for case in TABLE["textvqa"]:
        assert soft_score(case["reply"], case["answers"]) == pytest.approx(case["score"], abs=1e-12), case


def test_pope_scores_of_one_word_are_those_of_lmms_eval() -> None:
    compared = [case for case in TABLE["pope"] if case["reply"].strip() in BARE]
    assert {case["score"] for case in compared} == {0.0, 1.0}
    assert {case["reply"] for case in compared} > {"yes", "No", " YES \n", " no "}
    for case in compared:
        assert _own_score(case["reply"], case["answer"]) == case["score"], case


@pytest.mark.parametrize("reply", READ_OTHERWISE)
def test_pope_replies_that_lmms_eval_reads_otherwise(reply: str) -> None:
    meant = "no" if "no" in reply.lower() else "yes"
    (score,) = [case["score"] for case in TABLE["pope"] if (case["reply"], case["answer"]) == (reply, meant)]
    assert score == READ_OTHERWISE[reply]
    assert _own_score(reply, meant) == 1.0 - score


def _own_score(reply: str, answer: str) -> float:
    item = VqaItem("item", "image", Path("image.jpg"), "Is there a wheel?", (answer,))
    return pope_score(reply, item, VqaProtocol.LLAVA_OFFICIAL)

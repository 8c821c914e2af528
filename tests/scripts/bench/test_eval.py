"""The evaluation benchmark: the fast path gives the plain path's records, and what is promised is printed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.bench import eval as bench_eval
from scripts.bench.eval_answers import WAYS
from scripts.bench.eval_counters import watch
from scripts.bench.eval_world import build_world, draw_questions

ROOT = Path(__file__).resolve().parents[3]


def run(*flags: str) -> dict[str, Any]:
    command = [sys.executable, "scripts/bench/eval.py", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.slow
def test_both_ways_give_equal_records_and_the_fast_one_computes_less() -> None:
    result = run("--size", "tiny", "--images", "2")
    assert (result["images"], result["questions"]) == (2, 10)
    for part in ("masks", "choices"):
        found = result[part]
        assert found["deviation"]["log_prob"] < 1e-4
        assert found["deviation"]["mask_pixels_beyond_rounding"] == 0
        assert found["fast"]["llm_tokens"] < found["plain"]["llm_tokens"] / 4
        assert found["ratio"] > 0
    # Each image once for its five questions; choices alone never ask SAM.
    assert (result["masks"]["sam_encodes_per_image"], result["choices"]["sam_encodes_per_image"]) == (1.0, 0.0)
    assert (result["masks"]["plain"]["sam_encodes"], result["masks"]["fast"]["sam_encodes"]) == (1.0, 0.2)
    assert result["masks"]["plain"]["masks"] == result["masks"]["plain"]["decoder_calls"]  # one a call
    assert result["masks"]["fast"]["decoder_calls"] < 1.0
    for part in ("masks", "choices"):
        assert result[part]["peak_mb_fast"] > 0
        assert result[part]["peak_mb_plain"] > 0
    assert [result["answers"][kind]["answers"] for kind in ("default", "all")] == [2, 10]
    for answers in result["answers"].values():
        assert answers["differing_texts"] == 0
        assert all(answers[f"seconds_{way}"] > 0 for way in WAYS)  # which takes longer, a busy machine decides
        assert answers["peak_mb_fast"] > 0
    assert {"decoding_without_feedback", "decoding_with_feedback"} < set(result["decoding"]["here"])
    assert result["decoding"]["quoted_from_the_paper"]["decoding_with_feedback"] == 0.0162
    # (.0162 - .0097) / 2.47 = 0.26%: the paper prints ".2% increase".
    quoted = result["decoding"]["quoted_from_the_paper"]
    added = quoted["percent_of_llm_with_feedback"] - quoted["percent_of_llm_without_feedback"]
    assert added == pytest.approx(0.26, abs=0.02)


def test_unknown_parts_are_refused() -> None:
    with pytest.raises(SystemExit, match="unknown parts"):
        bench_eval.main(parts="masks,both")


def test_only_what_runs_under_counting_is_counted(tmp_path: Path) -> None:
    draw_questions(tmp_path, 1, "five", 64)
    world = build_world("tiny", tmp_path, 1, "five", torch.device("cpu"), seed=0)
    counters = watch(world.predictor.model)
    pixels = torch.zeros(2, 3, 96, 96)
    world.predictor.model.sam.encode_images(pixels)
    assert counters.sam_encodes == 0
    with counters.counting():
        world.predictor.model.sam.encode_images(pixels)
    world.predictor.model.sam.encode_images(pixels)
    assert counters.sam_encodes == 2


def test_decoding_is_timed_whatever_ran_before(capsys: pytest.CaptureFixture[str]) -> None:
    bench_eval.main(images=1, parts="choices,decoding")
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["decoding"]["masks"] > 0


def test_dtype_of_the_weights(tmp_path: Path) -> None:
    draw_questions(tmp_path, 1, "five", 64)
    world = build_world("tiny", tmp_path, 1, "five", torch.device("cpu"), seed=0, dtype="bfloat16")
    assert next(world.predictor.model.parameters()).dtype is torch.bfloat16

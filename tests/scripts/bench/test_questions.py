"""The question benchmark: its made-up data has the stated counts, and it prints what it promises."""

import json
import subprocess
import sys
from pathlib import Path

from partonomy.datasets.concept_graph import build_concept_graph
from scripts.bench.questions import MASKS_PER_IMAGE, NUM_OBJECT_PARTS, NUM_OBJECTS, NUM_PARTS, make_dataset

ROOT = Path(__file__).resolve().parents[3]


def test_the_data_set_has_the_label_counts_of_the_paper(tmp_path: Path) -> None:
    dataset = make_dataset(4000, 0, tmp_path)
    graph = build_concept_graph(dataset)
    assert (len(graph.objects), len(graph.parts)) == (NUM_OBJECTS, NUM_PARTS)
    # A part that is hardly ever visible may be missing from some objects of 4,000 images.
    assert NUM_OBJECT_PARTS * 0.97 <= sum(len(parts) for parts in graph.object_parts.values()) <= NUM_OBJECT_PARTS
    num_masks = sum(len(instance.parts) for image in dataset.images for instance in image.objects)
    assert abs(num_masks / len(dataset.images) - MASKS_PER_IMAGE) < 0.15
    assert all(instance.parts for image in dataset.images for instance in image.objects)


def test_it_prints_one_json_line_last(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/bench/questions.py", "--images", "40", "--output", str(tmp_path / "out")]
    command += ["--embedding_model", "char-ngram-tfidf"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    result = json.loads(done.stdout.splitlines()[-1])
    lines = (tmp_path / "out" / "built" / "questions.jsonl").read_text().splitlines()
    assert (result["images"], result["num_questions"]) == (40, len(lines))
    assert 100 < len(lines) <= 200
    assert result["seconds"] >= result["seconds_fit"] > 0
    assert result["peak_mb"] > 20
    assert result["ms_per_question"] > 0

import json
from pathlib import Path

import pytest
from partonomy.harness.results import read_summary, summary_to_json

from partonomy.benchmarks.partonomy.metrics import metric_names
from partonomy.structures import QuestionType
from validate_partonomy import main


def test_summary_has_exactly_the_published_schema(question_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    main(["--model", "random", "--questions", str(question_file), "--output", str(output), "--limit", "2"])
    data = json.loads((output / "summary.json").read_text())
    assert set(data) == {"protocol_version", "provenance", "seconds_total", "question_types"}
    assert isinstance(data["seconds_total"], float)
    assert set(data["question_types"]) == {question_type.value for question_type in QuestionType}
    for name, entry in data["question_types"].items():
        assert set(entry) == {"num_expected", "num_scored", "num_failed", "reasons", "metrics"}
        assert entry["num_expected"] == entry["num_scored"] + entry["num_failed"]
        assert tuple(entry["metrics"]) == metric_names(QuestionType(name))
        for metric, estimate in entry["metrics"].items():
            assert set(estimate) == {"value", "ci95", "n"}
            assert len(estimate["ci95"]) == 2
            if estimate["n"] == 0:
                assert (estimate["value"], estimate["ci95"]) == (None, [None, None])
            else:
                assert estimate["ci95"][0] <= estimate["value"] <= estimate["ci95"][1], metric
    # Own answers are asked of identification_with_label alone by default.
    generated = {
        name for name, entry in data["question_types"].items() if entry["metrics"]["generated_parts_f1"]["n"] > 0
    }
    assert generated == {"identification_with_label"}


def test_provenance(question_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    summary = main(["--model", "random", "--questions", str(question_file), "--output", str(output), "--seed", "9"])
    assert summary is not None
    provenance = summary.provenance
    assert provenance["seed"] == 9
    assert provenance["config"]["model"] == "random"
    assert provenance["dataset"]["num_questions"] == 40
    assert len(provenance["dataset"]["content_hash"]) == 64
    assert provenance["packages"]["numpy"] is not None
    assert {"code_commit", "code_is_modified", "dtype", "device", "python", "created"} <= set(provenance)


def test_summary_survives_its_file(question_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    summary = main(["--model", "oracle", "--questions", str(question_file), "--output", str(output)])
    assert summary is not None
    assert summary_to_json(read_summary(output / "summary.json")) == summary_to_json(summary)


def test_unfinished_run_has_no_summary(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="finished validation"):
        read_summary(tmp_path / "summary.json")

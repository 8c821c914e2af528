import subprocess
import sys
from pathlib import Path

import pytest

from partonomy.benchmarks.partonomy.task import parse_generate, parse_types
from partonomy.cli.run import benchmark_parser
from partonomy.structures import QuestionType
from validate_partonomy import main

ROOT = Path(__file__).resolve().parents[1]


def test_types_come_in_the_benchmarks_order() -> None:
    assert parse_types("part_to_whole, identification") == ("identification", "part_to_whole")
    assert parse_types("all") == tuple(question_type.value for question_type in QuestionType)
    assert parse_types("none") == ()
    with pytest.raises(ValueError, match="'riddle'; known: identification"):
        parse_types("riddle,identification")


def test_own_answers_are_asked_of_types_that_are_asked() -> None:
    assert parse_generate(None, ("identification", "identification_with_label")) == ("identification_with_label",)
    assert parse_generate(None, ("identification",)) == ()
    assert parse_generate("all", ("positive", "negative")) == ("positive", "negative")
    assert parse_generate("none", ("positive",)) == ()
    assert parse_generate("negative", ("positive", "negative")) == ("negative",)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "plum"], "--checkpoint"),
        (["--model", "oracle", "--checkpoint", "somewhere"], "--checkpoint"),
        (["--model", "plum", "--checkpoint", "/nowhere"], "/nowhere is not a folder"),
        (["--model", "oracle", "--question_types", "riddle"], "unknown question type 'riddle'"),
        (["--model", "oracle", "--question_types", "none"], "names no type"),
        (["--model", "oracle", "--limit", "0"], "--limit must be at least 1"),
        (["--model", "oracle", "--num_procs", "0"], "--num_procs must be at least 1"),
        (
            ["--model", "oracle", "--question_types", "positive", "--generate", "identification,positive"],
            "--generate names identification, which --question_types does not ask: positive",
        ),
        (["--model", "oracle", "--shard", "2of8"], "--shard '2of8': give NUMBER/COUNT"),
        (["--model", "oracle", "--text_matching", "char-ngram-tfidf", "--text_threshold", "0"], r"\(0, 1\], got 0"),
    ],
)
def test_bad_arguments_say_what_to_do(tmp_path: Path, flags: list[str], message: str) -> None:
    questions = tmp_path / "qa_pairs.json"
    questions.write_text("[]")
    with pytest.raises(SystemExit, match=message):
        main([*flags, "--questions", str(questions), "--output", str(tmp_path / "run")])
    assert not (tmp_path / "run" / "records.jsonl").exists()


def test_missing_questions_are_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"nowhere\.json"):
        main(["--model", "oracle", "--questions", str(tmp_path / "nowhere.json"), "--output", str(tmp_path / "run")])


def test_unknown_flag_and_unknown_model_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--modle", "oracle", "--questions", "q", "--output", "o"])
    assert stopped.value.code == 2
    assert "--modle" in capsys.readouterr().err
    with pytest.raises(
        SystemExit, match=r"--model must be one of plum, oracle, .* or package\.module:Class, got 'orakle'"
    ):
        main(["--model", "orakle", "--questions", "q", "--output", "o"])


def test_config_file_gives_the_flags(tmp_path: Path) -> None:
    path = tmp_path / "validation.yaml"
    path.write_text("model: random\nquestions: data\noutput: run\nlimit: 3\ngenerate: all\n")
    arguments = benchmark_parser("partonomy").parse_args(["--config", str(path), "--limit", "5"])
    assert (arguments.model, arguments.limit, arguments.generate) == ("random", 5, "all")
    path.write_text("model: random\nquestions: data\noutput: run\nlimits: 3\n")
    with pytest.raises(SystemExit):
        benchmark_parser("partonomy").parse_args(["--config", str(path)])


def test_help_comes_without_torch() -> None:
    code = (
        "import sys, validate_partonomy\n"
        "try:\n    validate_partonomy.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "--part_whole" in result.stdout

"""`python -m partonomy run BENCHMARK`: its flags, its help and its refusals."""

import dataclasses
import re
from pathlib import Path

import pytest

from partonomy.__main__ import main
from partonomy.benchmarks.registry import BENCHMARKS
from partonomy.models.registry import ModelSettings
from tests.partonomy.benchmarks.vqa_world import write_pope

OF_RUNS = {"config", "print_config", "help", "output", "limit", "resume", "overwrite", "num_procs", "shard", "seed"}
OF_RUNS |= {"local_rank"}


def flags_of(text: str) -> set[str]:
    """The flags that a help text explains."""
    return set(re.findall(r"^  (?:-h, )?--(\w+)", text, flags=re.MULTILINE))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_help_lists_the_flags_of_the_benchmark_and_only_those(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = BENCHMARKS[name]
    with pytest.raises(SystemExit) as stopped:
        main(["run", name, "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    expected = OF_RUNS | {"version", benchmark.root_flag} | {entry.name for entry in dataclasses.fields(ModelSettings)}
    expected |= {entry.name for entry in dataclasses.fields(benchmark.options)}
    expected |= set() if name == "partonomy" else {"split"}
    expected |= {"annotations"} if benchmark.takes_annotations else set()
    assert flags_of(printed) == expected
    assert benchmark.title.split(".")[0][:40] in printed
    assert f"python -m partonomy run {name}" in " ".join(printed.split())


def test_the_flags_of_two_benchmarks_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for name in ("partonomy", "refcoco"):
        with pytest.raises(SystemExit):
            main(["run", name, "--help"])
        found[name] = flags_of(capsys.readouterr().out)
    assert {"questions", "part_whole", "choice_protocol", "text_matching"} <= found["partonomy"] - found["refcoco"]
    assert {"root", "split", "mode", "wording"} <= found["refcoco"] - found["partonomy"]


def test_help_lists_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["run", "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert all(re.search(rf"^    {re.escape(name)}\s", printed, flags=re.MULTILINE) for name in BENCHMARKS)


def test_an_unknown_benchmark_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "refcoc", "--model", "oracle", "--root", "x", "--output", "y"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: there is no benchmark 'refcoc'; known: partonomy, refcoco, refcoco+")
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--endpoint", "http://h/v1"], "--endpoint belongs to --model chat and chat_segmenter, not to oracle"),
        (["--checkpoint", "x"], "--checkpoint belongs to --model plum and transformers, not to oracle"),
        (["--base"], "--base belongs to --model plum, not to oracle"),
        (["--segmenter", "a:B"], "--segmenter belongs to --model open_vocabulary and chat_segmenter, not to oracle"),
        (["--shard", "3/2"], "--shard '3/2': give NUMBER/COUNT"),
        (["--limit", "0"], "--limit must be at least 1, got 0"),
        (["--num_procs", "0"], "--num_procs must be at least 1, got 0"),
        (["--split", "val"], "POPE has no split 'val'"),
    ],
)
def test_values_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    write_pope(tmp_path / "data")
    places = ["--root", str(tmp_path / "data"), "--output", str(tmp_path / "run")]
    assert main(["run", "pope", "--model", "oracle", *places, *words]) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("word", ["--modle", "--wording", "--questions", "--no_ocr"])
def test_flags_of_other_benchmarks_are_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str) -> None:
    places = ["--root", str(tmp_path), "--output", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stopped:
        main(["run", "pope", "--model", "oracle", *places, word, "x"])
    assert stopped.value.code == 2
    assert f"error: unrecognized arguments: {word} x" in capsys.readouterr().err


def test_a_config_file_gives_the_flags_and_the_command_line_wins(tmp_path: Path) -> None:
    write_pope(tmp_path / "data")
    path = tmp_path / "run.yaml"
    path.write_text(
        f"model: oracle\nroot: {tmp_path / 'data'}\noutput: {tmp_path / 'run'}\nprotocol: partonomy_compat\nlimit: 2\n"
    )
    assert main(["run", "pope", "--config", str(path), "--limit", "1"]) == 0
    lines = (tmp_path / "run" / "records.jsonl").read_text().splitlines()
    assert len(lines) == 3  # one of each category
    assert 'answer the question with \\"Yes\\" or \\"No\\"' in lines[0]

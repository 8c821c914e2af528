"""The commands of the papers' rows: every row has its entry, every command is one that its parser takes."""

import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from partonomy.__main__ import main
from partonomy.quoted_rows import read_quoted
from partonomy.reporting.paper_tables.catalogue import PAPER_TABLES
from partonomy.row_commands import (
    ORIGIN_WORDS,
    Origin,
    TableCommands,
    command_lines,
    read_row_commands,
    render_page,
    slug,
)
from plum.cli.commands import COMMANDS as PLUM_COMMANDS
from tests.partonomy.reporting.conftest import World
from tests.readme_commands import parse_command

ROOT = Path(__file__).resolve().parents[3]
CONTENT = read_row_commands()
parse_once = cache(lambda command: parse_command(shlex.split(command)))
LISTED = ("2", "3", "4", "5", "9", "10", "11", "mmr2", "mmr3", "mmr4", "mmr5")


@pytest.fixture(params=LISTED)
def table(request: pytest.FixtureRequest) -> TableCommands:
    return CONTENT.tables[request.param]


def test_every_table_is_listed() -> None:
    assert tuple(CONTENT.tables) == LISTED
    assert set(LISTED) <= set(PAPER_TABLES)


def test_rows_are_those_of_the_quotation(table: TableCommands) -> None:
    quoted = read_quoted(table.quoted).rows
    assert [row.method for row in table.rows] == [row["method"] for row in quoted]
    assert len({slug(row.method) for row in table.rows}) == len(table.rows), "two rows would share a folder"
    prefix = "mmr_table" if table.name.startswith("mmr") else "table"
    assert table.quoted == f"{prefix}{table.name.removeprefix('mmr')}"


def test_every_command_is_taken_by_its_parser(table: TableCommands) -> None:
    for row in table.rows:
        if row.origin is Origin.UNPUBLISHED:
            assert row.commands == ()
            continue
        for command in row.commands:
            assert not re.search(r"\{[a-z]+\}", command), command
            parse_once(command)
        assert f"--table {table.name}" in row.show


def test_a_row_scores_the_model_that_it_makes(table: TableCommands) -> None:
    for row in table.rows:
        if row.origin in (Origin.WEIGHTS, Origin.TRAIN):
            checkpoints = {shlex.split(run)[shlex.split(run).index("--checkpoint") + 1] for run in row.runs}
            (folder,) = checkpoints
            assert folder.removesuffix("/model") in " ".join(row.prepared) or folder.startswith("runs/"), folder
            trains = any("train" in command.split()[1] for command in row.prepared)
            assert trains is (row.origin is Origin.TRAIN)
            assert bool(row.source) is (row.origin is Origin.WEIGHTS)
        if row.origin is Origin.IMPORT:
            assert all(run.startswith("python -m partonomy import-predictions ") for run in row.runs)
            assert all(shlex.split(run)[-1] == row.method for run in row.runs)


def test_a_run_is_named_by_the_command_that_shows_it(table: TableCommands) -> None:
    for row in table.rows:
        if row.show:
            words = shlex.split(row.show)
            shown = [word for word in words[4:] if word.startswith("runs/")]
            outputs = [shlex.split(run)[shlex.split(run).index("--output") + 1] for run in row.runs]
            assert sorted(shown) == sorted(outputs)
            assert len(outputs) == len(set(outputs)) == (len(table.splits) or len(row.runs))


def test_trained_models_are_where_their_recipe_writes_them() -> None:
    from plum.training.config_file import load_train_config

    for table in CONTENT.tables.values():
        for row in table.rows:
            if row.origin is not Origin.TRAIN:
                continue
            words = shlex.split(row.prepared[-1])
            config = ["--config", *words[2:]]
            config = [str(ROOT / word) if word.startswith("configs/") else word for word in config]
            folder = f"{load_train_config(config).run_dir}/model"
            assert all(f"--checkpoint {folder} " in f"{run} " for run in row.runs), (row.method, folder)


def test_protocols_are_named_and_used() -> None:
    used = {name for table in CONTENT.tables.values() for row in table.rows for name in row.protocols}
    assert used == set(CONTENT.protocols)
    for table in ("2", "9", "10", "11"):
        by_method = {row.method: row for row in CONTENT.tables[table].rows}
        assert "--targets many" in by_method["LISA-13B"].prepared[0]
        assert {"many", "teacher-forced spans"} <= set(by_method["LISA-13B"].protocols)
        assert "loop off" in by_method["PLUM-13B"].protocols
    lisa = CONTENT.tables["4"].rows[6]
    assert (lisa.method, lisa.protocols[0]) == ("LISA-7B", "single")
    assert "--targets single" in lisa.prepared[0]
    flags = set(re.findall(r"`[^`]*?(--[a-z_]+)", " ".join(CONTENT.protocols.values())))
    assert flags == {"--targets", "--feedback", "--protocol", "--choice_protocol", "--mode", "--wording"}


def test_systems_that_are_not_ported_are_imported() -> None:
    names = {row.method: row.origin for table in CONTENT.tables.values() for row in table.rows}
    for method in ("SegLLM", "X-Decoder", "SEEM", "PixelLM-13B", "GSVA-7B", "OVSeg", "UniRES"):
        assert names[method] is Origin.IMPORT, method
    assert "convert" in PLUM_COMMANDS


def test_the_page_is_the_file() -> None:
    page = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
    assert page == render_page(CONTENT), "write it again: python scripts/write_reproduce.py"


def test_commands_stand_below_the_table(benchmarks: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(benchmarks.pairs["reasonseg"].worse.path)
    assert main(["tables", run, "--table", "4"]) == 0
    plain = capsys.readouterr().out
    assert main(["tables", run, "--table", "4", "--commands"]) == 0
    both = capsys.readouterr().out
    below = "\n".join(command_lines(CONTENT.tables["4"])) + "\n"
    assert both == f"{plain}\n{below}"
    assert main(["tables", "--table", "4", "--commands"]) == 0
    assert capsys.readouterr().out == below
    assert "None was run here." in below
    for row in CONTENT.tables["4"].rows:
        assert f"{row.method}: {ORIGIN_WORDS[row.origin]}" in below
        assert all(f"\n  {command}\n" in below for command in row.commands)
    output = tmp_path / "table.md"
    assert main(["tables", run, "--table", "4", "--commands", "--format", "markdown", "--output", str(output)]) == 0
    assert output.read_text().endswith(f"```text\n{below}```\n")


def test_tables_without_commands_are_refused(benchmarks: World, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(benchmarks.pairs["mmr"].worse.path)
    for words, message in (
        ([run, "--commands"], "--commands needs a --table of 2, 3, 4, 5, 9, 10, 11, mmr2, mmr3, mmr4, mmr5, not auto"),
        (["--commands", "--table", "mmr8"], "not mmr8"),
        (["--commands", "--table", "2", "--format", "latex"], "--commands needs --format text or markdown, not latex"),
        (["--table", "2"], "there are no runs to tabulate"),
        ([], "there are no runs to tabulate"),
        (["--table", "12"], "there are no runs to tabulate"),
    ):
        assert main(["tables", *words]) == 1, words
        assert message in capsys.readouterr().err

"""Names from files neither steer a terminal nor start formulas."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest

from partonomy.__main__ import main
from partonomy.progress import progress
from partonomy.table_format import ColumnGroup, Table, TableFormat, TableRow, render_table
from partonomy.terminal import SafeStream, escape_controls, one_line, safe_output, spreadsheet_cell, unfiltered

HOSTILE = "wing\x1b]0;owned\x07\r\u202eleft\x9b2J\nerror: forged"
SHOWN = r"wing\x1b]0;owned\x07\r\u202eleft\x9b2J\nerror: forged"


def test_control_characters_become_escapes() -> None:
    assert one_line(HOSTILE) == SHOWN
    assert escape_controls(HOSTILE) == SHOWN.replace(r"\n", "\n")
    assert escape_controls("a\tb\nc") == "a\tb\nc"
    assert escape_controls("\ud800") == r"\ud800"
    for harmless in ("Flügel", "翼", "👩\u200d🔧", "جناح"):
        assert one_line(harmless) == harmless


def test_formulas_become_text_and_numbers_stay_numbers() -> None:
    for formula in (
        "=cmd|' /c calc'!a0",
        "+1+2",
        "-2+3",
        "@sum(a1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "＝1",
        "-3.2 - 4.5",
        "--1",
    ):
        assert spreadsheet_cell(formula) == f"'{formula}"
    for number in ("-1", "+1.5", "-0.25", "1e-5", "-1e5", "-12.5%", "-", "", "a=b", "34.0-38.5", "-.5"):
        assert spreadsheet_cell(number) == number


def hostile_table() -> Table:
    columns = (ColumnGroup("", ("=name", "value")),)
    return Table("=title\x1b", columns, (TableRow((HOSTILE, "-1.5")), TableRow(("=1+1", "2"), group="@group\n")))


def test_tables_keep_names_within_their_cells() -> None:
    for table_format in (TableFormat.TEXT, TableFormat.MARKDOWN):
        text = render_table(hostile_table(), table_format)
        assert SHOWN in text
        assert escape_controls(text) == text
        assert not [line for line in text.splitlines() if line.startswith("error")]
    rows = list(csv.reader(io.StringIO(render_table(hostile_table(), TableFormat.CSV))))
    assert rows[0] == ["table", "group", "'=name", "value"]
    assert rows[1][3] == "-1.5"
    assert rows[2] == ["'=title\x1b", "'@group\n", "'=1+1", "2"]


def test_output_goes_through_the_filter_and_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with safe_output(), safe_output():
        sys.stdout.write("a\x1b[2Jb\nc\n")
        sys.stderr.writelines(["\x07", "d\n"])
        assert unfiltered(sys.stderr) is before[1]
        assert sys.stdout.isatty() is False
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr() == ("a\\x1b[2Jb\nc\n", "\\x07d\n")


def test_a_bar_keeps_its_own_cursor_movements(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", SafeStream(terminal))
    with progress(2, "na\x1bme", "image", position=1) as shown:
        shown.set_note("lo\x07ss")
        shown.update(2)
    assert r"na\x1bme" in terminal.getvalue()
    assert "\x1b[A" in terminal.getvalue()
    assert "\\x1b[A" not in terminal.getvalue()
    assert "\x07" not in terminal.getvalue()


def test_error_lines_are_single_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / HOSTILE.replace("/", ""))]) == 1
    error = capsys.readouterr().err
    assert SHOWN in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("package", ["partonomy", "plum"])
def test_an_encoding_without_a_character_does_not_end_the_program(tmp_path: Path, package: str) -> None:
    place = tmp_path / "Flügel-翼"
    words = ["check", str(place)] if package == "partonomy" else ["data-status", "--root", str(place)]
    code = f"import sys; from {package}.{'__main__' if package == 'partonomy' else 'cli.main'} import main; "
    code += "import builtins; status = main(sys.argv[1:]); print('\\u7ffc', status)"
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        env={"PATH": "", "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(__file__).parents[2])},
        check=True,
    )
    assert b"Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1].startswith(b"\\u7ffc")
    assert b"\\u7ffc" in (done.stderr if package == "partonomy" else done.stdout)

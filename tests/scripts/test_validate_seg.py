"""`scripts/validate_seg.sh` with a stand-in for `python` that only writes down what it was asked."""

from pathlib import Path

from tests.readme_commands import parse_command
from tests.test_scripts import checkout, run_script

__all__ = ["checkout"]


def test_every_split_in_both_modes(checkout: Path) -> None:  # noqa: F811  the fixture
    root = checkout / "data"
    for folder in ("refer_seg/refcoco", "refer_seg/refcocog", "reason_seg/ReasonSeg/val"):
        (root / folder).mkdir(parents=True)
    arguments = ("scripts/validate_seg.sh", "saved", str(root), "runs/seg", "--limit", "5")
    commands = run_script(checkout, *arguments, NUM_PROCS="1")
    assert {parse_command(command) for command in commands} == {"-m plum"}
    asked = [
        (command[4], command[command.index("--split") + 1], command[command.index("--mode") + 1])
        for command in commands
    ]
    splits = [("refcoco", "val"), ("refcoco", "testA"), ("refcoco", "testB"), ("refcocog", "val"), ("refcocog", "test")]
    assert asked == [(*pair, mode) for pair in (*splits, ("reasonseg", "val")) for mode in ("forced", "generated")]
    outputs = {command[command.index("--output") + 1] for command in commands}
    assert len(outputs) == len(commands)
    assert all("--resume" in command and command[-2:] == ["--limit", "5"] for command in commands)


def test_mmr_and_refcocom_where_they_are(checkout: Path) -> None:  # noqa: F811  the fixture
    root = checkout / "data"
    for name in ("MMR/MMR_val.json", "MMR/MMR_test_part_only.json", "refer_seg/RefCOCOm/annotations/val_part.json"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    commands = run_script(checkout, "scripts/validate_seg.sh", "saved", "data", "runs/seg", NUM_PROCS="1")
    assert {parse_command(command) for command in commands} == {"-m plum"}
    asked = [(one[4], one[one.index("--split") + 1], one[one.index("--mode") + 1]) for one in commands]
    modes = ("teacher_forced", "generate", "union")
    expected = [("refcocom", "val_part", mode) for mode in ("forced", "generated")]
    expected += [("mmr", split, mode) for split in ("val", "test_part_only") for mode in modes]
    assert asked == expected
    arguments = ("scripts/validate_seg.sh", "saved", "data", "runs/seg")
    (command,) = run_script(checkout, *arguments, NUM_PROCS="1", MMR_MODES="generate", SPLITS="val")[len(commands) :]
    assert command[command.index("--output") + 1] == "runs/seg/mmr_val_generate"


def test_grefcoco_in_own_words_and_instructpart_in_both_modes(checkout: Path) -> None:  # noqa: F811  the fixture
    for name in ("refer_seg/grefcoco", "instructpart_part/InstructPart/test"):
        (checkout / "data" / name).mkdir(parents=True)
    arguments = ("scripts/validate_seg.sh", "saved", "data", "runs/seg")
    commands = run_script(checkout, *arguments, NUM_PROCS="1")
    assert {parse_command(command) for command in commands} == {"-m plum"}
    asked = [(one[4], one[one.index("--split") + 1], one[one.index("--mode") + 1]) for one in commands]
    assert asked == [
        *(("grefcoco", split, "generated") for split in ("val", "testA", "testB")),
        *(("instructpart", "test", mode) for mode in ("forced", "generated")),
    ]
    forced = run_script(checkout, *arguments, NUM_PROCS="1", MODES="forced")[len(commands) :]
    assert [one[4] for one in forced] == ["instructpart"]
    val = run_script(checkout, *arguments, NUM_PROCS="1", SPLITS="val")[len(commands) + 1 :]
    assert [(one[4], one[one.index("--split") + 1]) for one in val] == [("grefcoco", "val")]


def test_one_process_per_gpu(checkout: Path) -> None:  # noqa: F811  the fixture
    (checkout / "data" / "reason_seg" / "ReasonSeg" / "test").mkdir(parents=True)
    # the stand-in answers 2 where the script counts GPUs
    arguments = ("scripts/validate_seg.sh", "saved", "data", "runs/seg")
    (command,) = run_script(checkout, *arguments, MODES="forced", SPLITS="test")
    assert parse_command(command) == "-m plum"
    assert command[command.index("--num_procs") + 1] == "2"

"""Every command the shell scripts issue is accepted by the program it goes to: the scripts run with a stand-in for
`python` that only writes down what it was asked."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.readme_commands import ROOT, parse_command

RECORDER = """#!{python}
import json, pathlib, sys
if sys.argv[1:2] == ["-c"]:
    print(2)  # the number of GPUs or ranks that a script asks for
else:
    with open({log!r}, "a") as file:
        file.write(json.dumps([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]) + "\\n")
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Scripts and configurations in a folder whose virtual environment only records."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "ruff", "mypy"):
        path = programs / name
        path.write_text(RECORDER.format(python=sys.executable, log=str(tmp_path / "commands.jsonl")))
        path.chmod(0o755)
    for name in ("requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, tmp_path)
        shutil.copy(ROOT / name, tmp_path / ".venv" / f"{name}.installed")
    (tmp_path / "data" / "quickstart" / "val").mkdir(parents=True)
    for folder in ("stage0/model", "validation"):
        (tmp_path / "runs" / "quickstart" / folder).mkdir(parents=True)
    (tmp_path / "runs" / "quickstart" / "validation" / "summary.json").write_text("{}")
    return tmp_path


def run_script(checkout: Path, *arguments: str, **variables: str) -> list[list[str]]:
    """Run a script and return the commands it issued."""
    environment = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG")}
    done = subprocess.run(
        ["bash", *arguments],
        cwd=checkout,
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in (checkout / "commands.jsonl").read_text().splitlines()]


def parse_recorded(command: list[str]) -> str:
    """Parse what the stand-in was asked; the launcher gets the caller's folder, then the program to launch."""
    if command[1:3] == ["-m", "plum.training.launch"]:
        assert Path(command[3]).is_dir()
        parse_command(["python", *command[4:]])
        return "launch"
    return parse_command(command)


def test_quickstart(checkout: Path) -> None:
    commands = run_script(checkout, "scripts/quickstart.sh")
    parsed = [parse_recorded(command) for command in commands]
    assert parsed.count("launch") == 2, "two stages"
    assert parsed.count("validate_partonomy.py") == 3, "the model, the oracle and the random baseline"
    asked = [" ".join(command) for command in commands]
    for word in ("build", "train-tokenizer", "export", "teacher-forced", "tables", "report"):
        assert any(f" {word} " in line for line in asked), word
    assert sum("-m partonomy export" in line for line in asked) == 3, "every split as the published record"
    timings = (checkout / "runs" / "quickstart" / "timings.txt").read_text()
    assert "Train stage 1" in timings
    assert " s  total" in timings


@pytest.mark.parametrize("is_first_broken", [True, False])
def test_when_one_of_two_steps_breaks_the_other_does_not_stay(tmp_path: Path, is_first_broken: bool) -> None:
    script = (ROOT / "scripts" / "quickstart.sh").read_text()
    function = script[script.index("beside() {") : script.index("timings=()")]
    first = "until [ -s number ]; do sleep .05; done; false; touch went_on" if is_first_broken else "true"
    second = "echo $$ > number; exec sleep 60" if is_first_broken else "echo why; exit 3"
    lines = ("set -euo pipefail", "run=.", function, f"first() {{ {first}; }}", f"beside first sh -c '{second}'")
    done = subprocess.run(
        ["bash", "-c", "\n".join((*lines, "touch went_on"))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 1
    assert not (tmp_path / "went_on").exists()
    assert done.stderr == ("" if is_first_broken else "why\n")
    if is_first_broken:
        process = Path("/proc") / (tmp_path / "number").read_text().strip()
        deadline = time.monotonic() + 20
        while process.exists() and "Z" not in (process / "stat").read_text().split()[2]:
            assert time.monotonic() < deadline, "the second command still runs"
            time.sleep(0.05)


def test_quickstart_validates_a_model_that_was_trained_again_anew(checkout: Path) -> None:
    run = checkout / "runs" / "quickstart"
    (run / "model").mkdir()
    (run / "model" / "config.json").write_text("{}")
    (run / "stage1").mkdir()
    (run / "validation" / "records.jsonl").write_text("of the model before\n")
    os.utime(run / "model" / "config.json", (1, 1))
    (run / "stage1" / "finished.json").write_text("{}")
    subprocess.run(["bash", "scripts/quickstart.sh"], cwd=checkout, capture_output=True, check=False, timeout=120)
    assert not (run / "model").exists()
    assert not (run / "validation").exists()


@pytest.mark.parametrize("chosen", [None, "python3"])
def test_setup_looks_for_a_python_that_is_new_enough(tmp_path: Path, chosen: str | None) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup.sh", tmp_path / "scripts")
    programs = tmp_path / "bin"
    programs.mkdir()
    make_venv = 'mkdir -p "$3/bin"; printf "#!/bin/sh\\nexit 0\\n" > "$3/bin/python"; chmod +x "$3/bin/python"'
    for name, is_old in (("python3", True), ("python3.13", True), ("python3.12", False), ("python3.11", False)):
        check = f'[ "$1" != -c ] || exit {int(is_old)}'
        (programs / name).write_text(f"#!/bin/sh\n{check}\necho {name} >> made.txt\n{make_venv}\n")
        (programs / name).chmod(0o755)
    (tmp_path / "requirements.txt").write_text("")
    given = {"PATH": f"{programs}:{os.environ['PATH']}"} | ({} if chosen is None else {"PYTHON": chosen})
    command = ["bash", "scripts/setup.sh"]
    done = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, check=False, timeout=60)
    if chosen is not None:  # the one that was asked for is too old
        assert done.returncode == 1
        assert "Python 3.11 or newer is needed" in done.stderr
        assert not (tmp_path / ".venv").exists()
        return
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made.txt").read_text().split() == ["python3.12"]


def test_quickstart_asks_for_no_more_words_than_the_model_has(checkout: Path) -> None:
    from plum.training.config_file import load_train_config

    commands = run_script(checkout, "scripts/quickstart.sh")
    (tokenizer,) = [command for command in commands if "train-tokenizer" in command]
    asked = int(tokenizer[tokenizer.index("--vocab_size") + 1])
    config = load_train_config(["--config", str(ROOT / "configs" / "plum_tiny_stage0.yaml")])
    assert asked <= config.model.llava.language.vocab_size


@pytest.mark.parametrize(("name", "base"), [("ablations", "base"), ("sisters", "plum")])
def test_comparisons(checkout: Path, name: str, base: str) -> None:
    (checkout / "runs" / "sisters" / "stage0" / "model").mkdir(parents=True)  # which the stand-in does not train
    commands = run_script(checkout, f"scripts/{name}.sh", SEEDS="1", PARALLEL="1", RUNS=f"runs/{name}")
    parsed = [parse_recorded(command) for command in commands if command[1] != "scripts/ablation_table.py"]
    num_scores = 3 if name == "sisters" else 1  # held-out text; the sisters also on MMR-like data, in two modes
    variants = {path.stem for path in (ROOT / "configs" / name).glob("*.yaml")} | {base}
    shared = {f"runs/{name}/stage0"} if name == "sisters" else set()  # the words of MMR-like questions
    assert parsed.count("train.py") == len(shared) + len(variants)
    assert parsed.count("validate_partonomy.py") == len(variants)
    assert parsed.count("-m plum") == 1 + num_scores * len(variants), "the shared stage 0 is measured once, before"
    assert parsed.count("-m partonomy") == num_scores - 1, "MMR-like data: train and val"
    assert commands[-1] == ["python", "scripts/ablation_table.py", f"runs/{name}", "--base", base, "--columns", name]
    runs = {command[command.index("--run_dir") + 1] for command in commands if "train.py" in command}
    assert runs == shared | {f"runs/{name}/{variant}_seed1" for variant in variants}


def test_look_ahead(checkout: Path) -> None:
    (checkout / "data" / "quickstart" / "tokenizer").mkdir(parents=True)
    commands = run_script(checkout, "scripts/look_ahead.sh", SEEDS="1 2", PARALLEL="1")
    parsed = [parse_recorded(command) for command in commands if command[1] != "scripts/ablation_table.py"]
    assert parsed == ["train.py", "-m plum"] * 6
    runs = [command[command.index("--run_dir") + 1] for command in commands if "train.py" in command]
    assert sorted(runs) == [
        f"runs/look_ahead/{name}_seed{n}" for name in ("bidirectional", "causal", "none") for n in (1, 2)
    ]
    assert commands[-1][2:] == ["runs/look_ahead", "--base", "bidirectional", "--columns", "look_ahead"]


def test_the_language_demo_trains_and_measures_with_and_without_the_kl_loss(checkout: Path) -> None:
    shutil.copy(ROOT / "requirements-language.txt", checkout)
    commands = run_script(checkout, "scripts/smollm2_demo.sh", UPDATES="3")
    measured = [command for command in commands if command[1] == "scripts/text_retention.py"]
    made = [command for command in commands if command[1] == "scripts/smollm2_base.py"]
    own = [command for command in commands if command not in (*measured, *made) and command[1:3] != ["-m", "pip"]]
    parsed = [parse_recorded(command) for command in own]
    assert parsed == ["-m plum", "-m partonomy", "-m partonomy", *["launch", "-m plum"] * 2]
    trained = [command for command in own if command[1:3] == ["-m", "plum.training.launch"]]
    assert [command[command.index("--losses.kl") + 1] for command in trained] == ["0.1", "0"]
    runs = [command[command.index("--run_dir") + 1] for command in trained]
    assert [command[2] for command in measured] == [f"{run}/model" for run in runs]
    (adopted,) = [command for command in own if "adopt" in command]
    config = yaml.safe_load((ROOT / "configs" / "smollm2_demo.yaml").read_text())
    base = made[0][made[0].index("--output") + 1]
    assert adopted[4:] == [f"{base}/llava", config["init_from"], "--sam", f"{base}/sam.pth"]
    built = {command[command.index("--output") + 1] for command in own if "build" in command}
    assert built == {config["data"]["sources"][0]["path"], *config["data"]["exclude_images"]}


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("train_plum_0shot.sh", []),
        ("train_plum_ft.sh", ["configs/plum_7b_ft.yaml", "--seed", "3"]),
        ("train.sh", ["configs/plum_tiny_stage0.yaml", "--save_every_minutes", "20", "--overwrite"]),
        ("train_calico.sh", ["configs/calico_tiny_stage0.yaml", "--seed", "3"]),
        ("train_calico.sh", []),
    ],
)
def test_training_scripts(checkout: Path, script: str, arguments: list[str]) -> None:
    (command,) = run_script(checkout, f"scripts/{script}", *arguments)
    assert parse_recorded(command) == "launch"
    assert command[3:6] == [str(checkout), "train.py", "--config"]
    assert command[len(command) - len(arguments[1:]) :] == arguments[1:]


def test_pairs_train_and_score_every_variant(checkout: Path) -> None:
    chosen = {"VARIANTS": "calico calico_no_cam mi_glamm plum", "SEEDS": "1 2", "UPDATES": "3"}
    commands = run_script(checkout, "scripts/pairs.sh", LAUNCH="python train.py --config", **chosen)
    training = [command for command in commands if "train.py" in command]
    *others, last = commands
    assert last[1:] == ["scripts/ablation_table.py", "runs/pairs/scores", "--base", "calico", "--columns", "pairs"]
    assert [parse_recorded(command) for command in others].count("-m partonomy") == 2 + 8 + 1
    runs = [command[command.index("--run_dir") + 1] for command in training]
    variants = chosen["VARIANTS"].split()
    assert runs == ["runs/pairs/calico_stage0", "runs/pairs/llava_stage0"] + [
        f"runs/pairs/{variant}_seed{seed}" for seed in (1, 2) for variant in variants
    ]
    starts = {command[command.index("--init_from") + 1] for command in training[2:] if "calico" in " ".join(command)}
    assert starts == {"runs/pairs/calico_stage0/model"}
    overlays = [word for word in training[3] if word.startswith("configs/")]
    assert overlays == ["configs/calico_tiny_stage1.yaml", "configs/pairs/calico_no_cam.yaml"]
    assert all(command[-4:] == ["--num_updates", "3", "--save_every", "3"] for command in training)


def test_validation_script(checkout: Path) -> None:
    flags = ["--limit", "3"]
    commands = run_script(checkout, "scripts/validate_partonomy.sh", "model", "data/mine", "runs/mine", *flags)
    assert [parse_recorded(command) for command in commands] == ["validate_partonomy.py", *["-m partonomy"] * 2]
    assert commands[0][-2:] == flags


def test_a_stopped_ablation_is_reported(checkout: Path) -> None:
    failing = checkout / ".venv" / "bin" / "python"
    failing.write_text('#!/usr/bin/env bash\n[ "$1" != train.py ]\n')
    done = subprocess.run(
        ["bash", "scripts/ablations.sh"],
        cwd=checkout,
        env={"PATH": os.environ["PATH"], "SEEDS": "1", "VARIANTS": "base"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "FAILED  base_seed1" in done.stdout


STAGE_1 = "configs/plum_tiny_stage1.yaml"


def run_sweep(checkout: Path, script: str, **variables: str) -> list[list[str]]:
    """A sweep over stage 1 at tiny size; its table and its figure are left to the stand-in."""
    (checkout / "data" / "mine").mkdir(parents=True, exist_ok=True)
    return run_script(checkout, f"scripts/{script}", STAGE_1, DATA="data/mine", RUNS="runs/sweep", **variables)


def weights_of(checkout: Path, commands: list[list[str]]) -> dict[str, tuple[float, float, float]]:
    """KL, mask overlap and BCE weights that each training run gets, by run folder."""
    from plum.training.config_file import load_train_config

    found = {}
    for command in commands:
        if "train.py" in command:
            words = command[command.index("train.py") + 1 :]
            config = load_train_config([str(checkout / word) if word.endswith(".yaml") else word for word in words])
            assert config.init_from == "runs/quickstart/stage0/model", "as the configuration says"
            found[Path(config.run_dir).name] = (config.losses.kl, config.losses.mask_overlap, config.losses.mask_bce)
    return found


def test_loss_weights(checkout: Path) -> None:
    """The paper's Table 14: as printed, and with the headings moved."""
    commands = run_sweep(checkout, "loss_weights.sh", REASONSEG="dataset")
    assert weights_of(checkout, commands) == {f"overlap_{n}_seed1": (0.1, n, 2.0) for n in (2, 4, 5, 6, 8)}
    scored = [command for command in commands if "reasonseg" in command]
    assert len(scored) == 5
    assert all(parse_recorded(command) for command in commands if command[1:2] != ["scripts/ablation_table.py"])
    assert ["scripts/ablation_table.py", "runs/sweep", "--base", "overlap_8", "--columns", "loss_weights"] in [
        command[1:] for command in commands
    ]
    (checkout / "commands.jsonl").unlink()
    printed = run_sweep(checkout, "loss_weights.sh", READING="printed")
    assert weights_of(checkout, printed) == {f"kl_{n}_seed1": (n, 2.0, 0.1) for n in (2, 4, 5, 6, 8)}
    assert not any("reasonseg" in command for command in printed)


def test_kl_sweep(checkout: Path) -> None:
    commands = run_sweep(checkout, "kl_sweep.sh", TEXTVQA="dataset/textvqa", SEEDS="1 2", LAMBDAS="0 0.1 1")
    weights = weights_of(checkout, commands)
    assert weights == {f"kl_{n}_seed{seed}": (float(n), 8.0, 5.0) for n in ("0", "0.1", "1") for seed in (1, 2)}
    assert sum("textvqa" in command for command in commands) == 6
    table, figure = commands[-2:]
    assert table[2:] == ["runs/sweep", "--base", "kl_0.1", "--columns", "kl_sweep"]
    assert figure[1:] == ["scripts/draw_kl_sweep.py", "runs/sweep", "runs/sweep/kl_sweep.svg"]


def test_kl_sweep_takes_a_reduction(checkout: Path) -> None:
    commands = run_sweep(checkout, "kl_sweep.sh", KL_REDUCTION="sum", LAMBDAS="0.5")
    overlay = (checkout / "runs" / "sweep" / "overlays" / "kl_0.5.yaml").read_text()
    assert overlay == "losses: {kl: 0.5, kl_reduction: sum}\n"
    assert weights_of(checkout, commands) == {"kl_0.5_seed1": (0.5, 8.0, 5.0)}


@pytest.mark.parametrize(
    ("script", "arguments", "variables", "message"),
    [
        ("kl_sweep.sh", [], {}, "usage: bash scripts/kl_sweep.sh CONFIG.yaml"),
        ("loss_weights.sh", [STAGE_1], {"READING": "mine"}, "READING=mine: table6 or printed"),
        ("loss_weights.sh", [STAGE_1], {"DATA": "nowhere"}, "nowhere does not exist: name the questions"),
        ("kl_sweep.sh", [STAGE_1], {"STAGE0": "nowhere"}, "nowhere does not exist: train the shared stage 0 first"),
    ],
)
def test_a_sweep_that_cannot_start_says_why(
    checkout: Path, script: str, arguments: list[str], variables: dict[str, str], message: str
) -> None:
    done = subprocess.run(
        ["bash", f"scripts/{script}", *arguments],
        cwd=checkout,
        env={"PATH": os.environ["PATH"]} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert not (checkout / "commands.jsonl").exists()

"""train.py: what a user can mend is one line on standard error; the log has times."""

import errno
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import train
from plum.train_config import TrainConfig
from plum.training.reporting import describe_error
from tests.plum.training.launching import fork_ranks_to_their_ends, write_config
from tests.plum.training.training_world import make_config, with_engine, write_inputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reported")
    write_inputs(folder)
    return folder


def _no_tokenizer(config: TrainConfig) -> TrainConfig:
    return replace(config, tokenizer=f"{config.run_dir}_no_tokenizer")


def _no_data(config: TrainConfig) -> TrainConfig:
    sources = tuple(replace(source, path=f"{config.run_dir}_nowhere") for source in config.data.sources)
    return replace(config, data=replace(config.data, sources=sources))


def _no_model(config: TrainConfig) -> TrainConfig:
    return replace(config, init_from=f"{config.run_dir}_no_model")


def _teacher_without_adapters(config: TrainConfig) -> TrainConfig:
    return replace(config, losses=replace(config.losses, kl=0.1))


def _file_for_a_folder(config: TrainConfig) -> TrainConfig:
    Path(config.run_dir).write_text("not a folder")
    return config


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_no_tokenizer, "no_tokenizer: no such tokenizer folder"),
        (_no_data, "nowhere is neither a folder with questions.jsonl nor a record file"),
        (_no_model, "no_model does not exist: train the stage that writes it"),
        (_teacher_without_adapters, "losses.kl is 0.1: the KL term .* model.lora is null: set losses.kl to 0"),
        (_file_for_a_folder, "File exists"),
    ],
)
def test_an_error_of_the_user_is_one_line(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[TrainConfig], TrainConfig],
    message: str,
) -> None:
    config = spoil(make_config(folder, spoil.__name__))
    monkeypatch.setattr(sys, "argv", ["train.py", *write_config(config)])
    with pytest.raises(SystemExit) as stopped:
        train.main()
    assert stopped.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train.py: ")]
    assert re.match(rf"train\.py: error: .*{message}", line)
    monkeypatch.setenv("PLUM_TRACEBACK", "1")
    with pytest.raises((OSError, ValueError)):
        train.main()


@pytest.mark.distributed
def test_the_main_rank_alone_reports_what_it_finds(folder: Path) -> None:
    config = with_engine(make_config(folder, "occupied"), "deepspeed", 1, 2)
    Path(config.run_dir).mkdir()
    shutil.copy(write_config(replace(config, seed=7))[1], Path(config.run_dir) / "config.yaml")
    (Path(config.run_dir) / "metrics.jsonl").write_text('{"update": 1}\n')
    output = Path(config.run_dir).with_suffix(".log")
    statuses, printed = fork_ranks_to_their_ends("train.py", write_config(config), 2, output)
    assert 1 in statuses
    assert set(statuses) <= {1, -15}
    assert "Traceback" not in printed
    assert len(re.findall(r"error: .*holds a run with other settings .seed: 7 there", printed)) == 1, printed[-3000:]


def test_errors_become_one_line(tmp_path: Path) -> None:
    assert describe_error(ValueError("a\n  b")) == "a b"
    assert describe_error(OSError(errno.ENOSPC, "No space left on device", "/runs/a")) == (
        "/runs/a: No space left on device"
    )
    assert describe_error(FileNotFoundError("x: no such folder")) == "x: no such folder"
    assert describe_error(ValueError()) == "ValueError"


class _Broken(torch.utils.data.Dataset[int]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise ValueError("record 7: the mask is broken")


def test_an_error_of_a_loader_process_is_itself() -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  its text is what is tested
        list(torch.utils.data.DataLoader(_Broken(), num_workers=1))
    assert "\n" in str(caught.value)
    assert describe_error(caught.value) == "record 7: the mask is broken"

"""`python -m plum doctor`: check installation, weights and data of a run, and estimate its memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from partonomy.cli.exit_status import UsageError
from partonomy.cli.flags import Positive
from plum.doctor.assumptions import Assumptions


@dataclass(frozen=True)
class RunFlags:
    """Run.

    Attributes:
        config: YAML file of a run and its overlays, as for train.py
        table: YAML files of runs; print their memory as a Markdown table
        set: KEY=VALUE; override keys of the YAML files
        zero_stage: override engine.zero_stage
        print_config: print the configuration of the run as YAML, which --config reads, and exit
    """

    config: tuple[Path, ...] = ()
    table: tuple[Path, ...] = ()
    set: tuple[str, ...] = ()
    zero_stage: Literal[1, 2] | None = None
    print_config: bool = False

    def words(self, paths: Sequence[Path]) -> list[str]:
        """Return the arguments of train.py for a YAML file and its overlays.

        Raises:
            ValueError: a change is no `KEY=VALUE`.
        """
        words = [word for path in paths for word in ("--config", str(path))]
        for setting in self.set:
            key, separator, value = setting.partition("=")
            if not separator:
                raise ValueError(f"--set {setting}: write KEY=VALUE, e.g. engine.micro_batch_size=2")
            words += [f"--{key}", value]
        return words if self.zero_stage is None else [*words, "--engine.zero_stage", str(self.zero_stage)]


@dataclass(frozen=True)
class MemoryFlags:
    """Memory.

    Attributes:
        gpus: numbers of GPUs (default: those of this machine, or 1)
        text_tokens: tokens of the longest conversation (default: data.max_text_tokens)
        supervised_tokens: number of answer tokens among them (default: all)
        spans: number of masks per conversation
        image_size: height and width of the images in pixels
        images_per_conversation: images of a conversation (default: 2 for pairs, otherwise 1)
    """

    gpus: tuple[int, ...] = ()
    text_tokens: int | None = None
    supervised_tokens: int | None = None
    spans: int = Assumptions.spans_per_conversation
    image_size: tuple[int, int] = Assumptions.image_size
    images_per_conversation: Positive | None = None

    @property
    def assumptions(self) -> Assumptions:
        """What the estimate assumes of the data."""
        return Assumptions(
            text_tokens=self.text_tokens,
            supervised_tokens=self.supervised_tokens,
            spans_per_conversation=self.spans,
            image_size=self.image_size,
            images_per_conversation=self.images_per_conversation,
        )


@dataclass(frozen=True)
class WeightFlags:
    """Weights and known answers.

    Attributes:
        hash_cache: JSON file that caches the hashes of weight files (default: in ~/.cache/plum)
        answers: JSON file of known answers; compare the model's answer to one question with it
        record_answer: add the model's answer to the file of --answers
        checkpoint: model to ask (default: the run's model, or init_from)
        image: image to ask about (default: a drawn one)
        question: question to ask (default: the parts that the object has)
    """

    hash_cache: Path | None = None
    answers: Path | None = None
    record_answer: bool = False
    checkpoint: Path | None = None
    image: Path | None = None
    question: str | None = None


def doctor(*, run: RunFlags, memory: MemoryFlags, weights: WeightFlags) -> None:
    """Check a run's installation, weights, data and memory before it starts.

    Args:
        run: the run, or the runs of a table.
        memory: what the estimate assumes.
        weights: what is hashed and asked.

    Raises:
        UsageError: neither --config nor --table is given, or both.
        SystemExit: the configuration is printed.
        FileNotFoundError: a configuration does not exist.
        ValueError: something required is missing or wrong.
    """
    if not run.config and not run.table:
        raise UsageError("one of the arguments --config --table is required")
    if run.config and run.table:
        raise UsageError("argument --table: not allowed with argument --config")
    if run.print_config:
        from plum.training.config_file import load_train_config

        load_train_config([*run.words(run.config), "--print_config"])
    from plum.cli.doctor_checks import examine

    examine(run, memory, weights)

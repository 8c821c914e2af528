"""What `python -m plum doctor` examines and prints."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from partonomy.images import image_size, load_image
from plum.cli.doctor import MemoryFlags, RunFlags, WeightFlags
from plum.doctor.environment import examine_environment
from plum.doctor.file_hashes import default_cache
from plum.doctor.findings import Finding, State
from plum.doctor.folders import examine_data, examine_weights, hash_weight_files
from plum.doctor.known_answer import Verdict, ask, compare, read_answers, record_answer, standard_image
from plum.doctor.memory import NamedRun, describe_estimate, estimate_memory, markdown_table
from plum.doctor.workload import Assumptions
from plum.inference.api import QUESTION
from plum.train_config import TrainConfig
from plum.training.config_file import load_train_config
from plum.training.initialise import Placement


def examine(run: RunFlags, memory: MemoryFlags, weights: WeightFlags) -> None:
    """Examine what the flags of the command name, and print it.

    Args:
        run: the run, or the runs of a table.
        memory: what the estimate assumes.
        weights: what is hashed and asked.

    Raises:
        ValueError: something required is missing or wrong.
    """
    assumptions = memory.assumptions
    gpu_counts = memory.gpus or (max(1, torch.cuda.device_count()),)
    if min(gpu_counts) < 1:
        raise ValueError(f"--gpus {min(gpu_counts)}: at least 1")
    if run.table:
        runs = [NamedRun(path.stem, load_train_config(run.words([path]))) for path in run.table]
        print(markdown_table(runs, gpu_counts, assumptions))
        return
    config = load_train_config(run.words(run.config))
    cache = weights.hash_cache or default_cache()
    print("Installation")
    findings = _show(examine_environment(config.engine))
    print("\nWeights")
    findings += _show(examine_weights(config, cache))
    print("\nData")
    findings += _show(examine_data(config.data))
    print()
    findings += _show_memory(config, gpu_counts, assumptions)
    if weights.answers is not None:
        print("\nKnown answer")
        findings += _show(_check_answer(config, weights, weights.answers, cache))
    missing = [finding.what.strip() for finding in findings if finding.state is State.MISSING]
    if missing:
        raise ValueError(f"{len(missing)} required items are missing or wrong: {', '.join(missing)}")
    print("\nNothing required is missing.")


def _show(findings: list[Finding]) -> list[Finding]:
    for finding in findings:
        to_do = f"  -> {finding.to_do}" if finding.to_do else ""
        print(f"  {finding.state.value:<8} {finding.what:<28} {finding.found}{to_do}")
    return findings


def _show_memory(config: TrainConfig, gpu_counts: Sequence[int], assumptions: Assumptions) -> list[Finding]:
    """Print the estimate for every GPU count; a GPU of this machine that is too small is a finding."""
    findings = []
    for num_gpus in gpu_counts:
        try:
            estimate = estimate_memory(config, num_gpus, assumptions)
        except ValueError as error:
            print(f"No memory estimate: {error}")
            return []
        print(describe_estimate(config, estimate))
        if torch.cuda.is_available():
            smallest = min(
                torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())
            )
            if estimate.peak > smallest:
                found = f"{estimate.peak / 1e9:.1f} GB estimated, {smallest / 1e9:.1f} GB on this machine's GPU"
                findings.append(Finding(State.REMARK, "memory", found, "lower engine.micro_batch_size"))
    return _show(findings)


def _check_answer(config: TrainConfig, flags: WeightFlags, answers: Path, cache: Path) -> list[Finding]:
    """Ask the model, then record its answer or compare it with the recorded one."""
    folder = flags.checkpoint or _model_of(config)
    if folder is None:
        return [Finding(State.MISSING, "known answer", "the run has no weights yet", "give --checkpoint")]
    weights = hash_weight_files(folder, cache).sha256
    image: np.ndarray = standard_image() if flags.image is None else load_image(flags.image, *image_size(flags.image))
    on_gpu = torch.cuda.is_available()
    placement = Placement(torch.bfloat16 if on_gpu else torch.float32, torch.device("cuda" if on_gpu else "cpu"))
    answer = ask(folder, weights, image, flags.question or QUESTION, placement)
    if flags.record_answer:
        record_answer(answers, answer)
        return [Finding(State.FINE, "recorded", f"{answer.text!r}, {len(answer.masks)} masks, in {answers}")]
    comparison = compare(read_answers(answers), answer)
    for line in comparison.lines:
        print(f"           {line}")
    states = {Verdict.PASS: State.FINE, Verdict.FAIL: State.MISSING, Verdict.UNKNOWN: State.REMARK}
    to_do = "--record_answer records this one" if comparison.verdict is Verdict.UNKNOWN else ""
    return [Finding(states[comparison.verdict], "known answer", comparison.verdict.value, to_do)]


def _model_of(config: TrainConfig) -> Path | None:
    """Return the run's own model, or the model that it starts from."""
    own = Path(config.run_dir) / "model"
    if own.is_dir():
        return own
    return None if config.init_from is None else Path(config.init_from)

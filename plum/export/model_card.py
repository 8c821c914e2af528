"""README.md of an exported model: base, training data with their terms, scores with their protocol, parameters."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from partonomy.benchmarks.task import ALL
from partonomy.harness.provenance import overlap_line
from partonomy.harness.summary import Summary
from partonomy.metrics.bootstrap import Estimate
from plum.checkpoints.model_weights import empty_model
from plum.checkpoints.store import CARD_FILE
from plum.config import ModelConfig
from plum.data.catalogue import CATALOGUE, DATA_OF_KIND
from plum.export.card_metadata import TAGS, CardMetadata, quoted_metrics, read_card, read_scores, with_metadata
from plum.export.export_source import RUN_CONFIG, ExportSource
from plum.models.parameter_counts import count_components
from plum.train_config import SourceConfig, TrainConfig
from plum.training.config_file import load_train_config


def write_card(
    folder: Path, name: str, source: ExportSource, config: ModelConfig, summaries: Sequence[Path] = ()
) -> None:
    """Write the card of an exported model into `folder`.

    Args:
        folder: folder to which README.md is written.
        name: name of the export.
        source: what was exported.
        config: architecture of the exported model.
        summaries: `summary.json` files, or folders that hold them.

    Raises:
        FileNotFoundError, ValueError: a summary is missing or is not a summary.
    """
    blocks = [
        f"# {name}",
        f"Made by `python -m plum export` from the {source.described_as}.",
        *_describe_base(source),
        *_describe_training(source),
        *_describe_scores(summaries),
        *_describe_parameters(config),
        *_describe_licences(source),
        *([f"## Card of the exported model\n\n{_text_of(source.card)}"] if _text_of(source.card) else []),
    ]
    text = with_metadata("\n\n".join(blocks) + "\n", name, _metadata(source, config), summaries)
    (folder / CARD_FILE).write_text(text, encoding="utf-8")


def _metadata(source: ExportSource, config: ModelConfig) -> CardMetadata:
    """Return what the Hub reads: the data of all stages; the base, if its own card names it on the Hub."""
    used = [one for stage in _stages(source.run) for one in stage.data.sources]
    names = [Path(one.path).name if one.path else _catalogue_name(one) for one in used]
    card = None if source.base is None else source.base / CARD_FILE
    base = None if card is None or not card.is_file() else _read(card.read_text(encoding="utf-8"))[0].base_model
    return CardMetadata(tags=(*TAGS, config.system), datasets=tuple(dict.fromkeys(names)), base_model=base)


def _read(card: str) -> tuple[CardMetadata, str]:
    """Split a card into metadata and text; one whose metadata are damaged is all text."""
    try:
        return read_card(card)
    except ValueError:
        return CardMetadata(), card


def _text_of(card: str) -> str:
    return _read(card)[1].strip()


def _describe_base(source: ExportSource) -> list[str]:
    if source.base is None:
        return ["## Base model\n\nUnknown: trained from scratch, or the run's folder was not given."]
    card = source.base / CARD_FILE
    lines = ["## Base model", f"`{source.base}`"]
    if card.is_file():
        lines.append(
            "\n".join(f"> {line}".rstrip() for line in _text_of(card.read_text(encoding="utf-8")).splitlines())
        )
    return ["\n\n".join(lines)]


def _stages(run: Path | None) -> list[TrainConfig]:
    """Return the configurations of the run and of the runs it continued, earliest first."""
    stages: list[TrainConfig] = []
    seen: set[Path] = set()
    while run is not None and run.resolve() not in seen and (run / RUN_CONFIG).is_file():
        seen.add(run.resolve())
        config = load_train_config(["--config", str(run / RUN_CONFIG)])
        stages.insert(0, config)
        run = Path(config.init_from).parent if config.init_from else None
    return stages


def _describe_training(source: ExportSource) -> list[str]:
    stages = _stages(source.run)
    if not stages:
        return ["## Training\n\nUnknown: the run's folder was not found next to the model."]
    blocks = ["## Training"]
    for number, config in enumerate(stages):
        start = f"from `{config.init_from}`" if config.init_from else "from scratch"
        blocks.append(
            f"Stage {number}, `{config.run_dir}`: {config.num_updates} updates {start}, seed {config.seed}, "
            f"{config.engine.precision}, learning rate {config.optimizer.learning_rate:g}. "
            f"Benchmark images left out of training: {_listed(config.data.exclude_images)}. "
            f"Benchmark images in training: {_listed(config.data.count_images)}."
        )
        rows = [(f"`{one.kind}`", _place(one), one.group or "-", f"{one.weight:g}") for one in config.data.sources]
        blocks.append(_markdown_table(("source", "data", "group", "weight"), rows))
    return blocks


def _listed(paths: Sequence[str]) -> str:
    return ", ".join(f"`{path}`" for path in paths) or "none"


def _place(source: SourceConfig) -> str:
    return f"`{source.path}`" if source.path else _catalogue_name(source)


def _catalogue_name(source: SourceConfig) -> str:
    return source.dataset or DATA_OF_KIND.get(source.kind, source.kind)


def _describe_scores(summaries: Sequence[Path]) -> list[str]:
    blocks = ["## Scores"]
    for path in summaries:
        blocks += _describe_summary(path)
    return blocks if summaries else [*blocks, "No scores were given to the export (`--summary`)."]


def _describe_summary(path: Path) -> list[str]:
    summary = read_scores(path)
    return _describe_one_group(summary) if set(summary.groups) == {ALL} else _describe_groups(summary)


def _describe_one_group(summary: Summary) -> list[str]:
    rows = [(name, *_cells(estimate)) for name, estimate in summary.metrics.items() if estimate.value is not None]
    return [_describe_run(summary), _markdown_table(("metric", "value", "95% interval", "n"), rows)]


def _describe_groups(summary: Summary) -> list[str]:
    """One row per group and metric: the main metrics of Partonomy, all of any other benchmark."""
    rows = [
        (f"{group} {name}", *_cells(summary.groups[group].metrics[name])) for group, name in quoted_metrics(summary)
    ]
    return [_describe_run(summary), _markdown_table(("metric", "value", "95% interval", "n"), rows)]


def _describe_run(summary: Summary) -> str:
    """What was measured on which model, and what a reader has to know before comparing it."""
    config = summary.config
    lines = [f"{summary.benchmark} {summary.split}, protocol `{summary.protocol}`"]
    if config["limit"] is not None:
        lines.append(f"only the first {config['limit']} items (of each group)")
    if summary.num_failed:
        lines.append(f"{summary.num_failed} of {summary.num_expected} failed and count as 0")
    model = config["model"]["checkpoint"] or config["model"]["model"]
    measured = f"measured on `{model}`{' with its adapters off' if summary.is_base else ''}"
    notes = " ".join(f"{note}." for note in (*summary.notes, overlap_line(summary.provenance)))
    return f"{', '.join([*lines, measured])}. {notes}"


def _cells(estimate: Estimate) -> tuple[str, str, str]:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "-", "-", str(estimate.count)
    return f"{estimate.value:.4f}", f"{estimate.low:.4f} to {estimate.high:.4f}", str(estimate.count)


def _describe_parameters(config: ModelConfig) -> list[str]:
    counts = count_components(empty_model(config))
    rows = [(f"`{one.component}`", f"{one.num_parameters:,}") for one in counts]
    rows.append(("all", f"{sum(one.num_parameters for one in counts):,}"))
    return ["## Parameters", f"System `{config.system}`.", _markdown_table(("component", "parameters"), rows)]


def _describe_licences(source: ExportSource) -> list[str]:
    """Describe the terms of the base and of every download; the user's own folders are only listed."""
    entries = {entry.name: entry for entry in CATALOGUE}
    sources = [one for config in _stages(source.run) for one in config.data.sources]
    names = {_catalogue_name(one) for one in sources if not one.path}
    rows = [(entry.name, entry.licence, entry.source) for name, entry in entries.items() if name in names]
    folders = sorted({one.path for one in sources if one.path})
    lines = [
        "## Licences",
        "The code is under the Apache License 2.0, which covers neither weights nor data. The weights keep the terms "
        "of what they started from (LLaMA's and LLaVA's, CLIP's, SAM's) and may be bound by those of the data, which "
        "are, as their publishers state them:",
    ]
    if rows:
        lines.append(_markdown_table(("data", "terms", "source"), rows))
    if folders:
        lines.append(f"Annotation folders, under the terms of their origin: {_listed(folders)}.")
    return lines


def _markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

"""Metadata of model cards, in the form that the Hugging Face Hub reads: licence, tags, data, base model, scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from partonomy.benchmarks.task import ALL
from partonomy.harness.run_folder import SUMMARY_FILE
from partonomy.harness.summary import Summary, read_summary

SHOWN_METRICS = ("giou_micro_paired", "giou_macro_paired", "parts_accuracy", "parts_f1", "objects_accuracy")
"""Metrics of Partonomy that a card quotes; of any other benchmark, it quotes all."""
LIBRARY = "plum"
LICENCE = "other"
"""The weights keep the terms of what they started from, which the Hub's list of licences does not have."""
PIPELINE = "image-text-to-text"
TAGS = ("image-segmentation", "part-segmentation", "partonomy")
_TASK_TYPES = (("giou", "image-segmentation"), ("iou", "image-segmentation"))
_OTHER_TASK = "visual-question-answering"


@dataclass(frozen=True)
class CardMetadata:
    """What a card tells the Hub about a model.

    Attributes:
        licence: the Hub's name of a licence, such as "apache-2.0" or "other".
        tags: words by which the model is found.
        datasets: names of the training data.
        base_model: name on the Hub of the model under the trained weights; None if it has none.
    """

    licence: str = LICENCE
    tags: tuple[str, ...] = TAGS
    datasets: tuple[str, ...] = ()
    base_model: str | None = None


def read_card(text: str) -> tuple[CardMetadata, str]:
    """Split a card into its metadata and its text; a card without metadata has the defaults.

    Raises:
        ValueError: the metadata are not valid YAML.
    """
    if not text.startswith("---"):
        return CardMetadata(), text
    try:
        card = ModelCard(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(
            f"the metadata at its beginning are not valid YAML ({' '.join(str(error).split())})"
        ) from error
    values = card.data.to_dict()
    metadata = CardMetadata(
        licence=next(iter(_texts(values.get("license"))), LICENCE),
        tags=_texts(values.get("tags")) or TAGS,
        datasets=_texts(values.get("datasets")),
        base_model=next(iter(_texts(values.get("base_model"))), None),
    )
    return metadata, card.text.lstrip("\n")


def _texts(value: object) -> tuple[str, ...]:
    """Return one text or a list of them, both of which the Hub allows, as a tuple."""
    values = value if isinstance(value, list) else [value]
    return tuple(str(one) for one in values if one)


def with_metadata(text: str, name: str, metadata: CardMetadata, summaries: Sequence[Path] = ()) -> str:
    """Return a card with metadata in front.

    Args:
        text: the card's Markdown, without metadata.
        name: the model's name, under which its scores are listed.
        metadata: see `CardMetadata`.
        summaries: `summary.json` files, or folders that hold them, whose scores become the card's results.

    Raises:
        FileNotFoundError, ValueError: a summary is missing or is not a summary.
    """
    results = [result for path in summaries for result in eval_results(read_scores(path))]
    data = ModelCardData(
        license=metadata.licence,
        library_name=LIBRARY,
        pipeline_tag=PIPELINE,
        tags=list(metadata.tags),
        datasets=list(metadata.datasets) or None,
        base_model=metadata.base_model,
        model_name=name,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{text}"


def read_scores(path: Path) -> Summary:
    """Read a summary from its file or its folder.

    Raises:
        FileNotFoundError, ValueError: it is missing or is not a summary.
    """
    path = path / SUMMARY_FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such summary; --summary takes the output folder of a finished validation")
    return read_summary(path)


def quoted_metrics(summary: Summary) -> list[tuple[str, str]]:
    """Return the group and name of the metrics that a card quotes: those with a value."""
    found = {name for group in summary.groups.values() for name in group.metrics}
    main_metrics = [name for name in SHOWN_METRICS if name in found]
    is_divided = set(summary.groups) != {ALL}
    return [
        (group.name, name)
        for group in summary.groups.values()
        for name in ((main_metrics if is_divided else None) or group.metrics)
        if name in group.metrics and group.metrics[name].value is not None
    ]


def eval_results(summary: Summary) -> list[EvalResult]:
    """Return the scores of a summary as results of the Hub, with their intervals, counts and protocol as arguments."""
    results = []
    for group, name in quoted_metrics(summary):
        estimate = summary.groups[group].metrics[name]
        task = next((task for part, task in _TASK_TYPES if part in name), _OTHER_TASK)
        interval = None if estimate.low is None or estimate.high is None else [estimate.low, estimate.high]
        results.append(
            EvalResult(
                task_type=task,
                dataset_type=summary.benchmark,
                dataset_name=f"{summary.benchmark} {summary.split}" + ("" if group == ALL else f", {group}"),
                dataset_config=None if group == ALL else group,
                dataset_split=summary.split,
                metric_type=name,
                metric_name=name,
                metric_value=estimate.value,
                metric_args={"interval_95": interval, "count": estimate.count, "protocol": summary.protocol},
            )
        )
    return results

"""Which counting a printed number follows: this project's or that of the authors' code.

A summary always holds both; a table says which it prints. The authors' code differs in three ways:

- skipped failures: a question whose model output failed, or has another number of masks than there are parts, is left
  out of every mean (here: it scores 0);
- selector: the choice with the highest mean log-probability over all tokens of prompt and answer (`conversation_mean`;
  the paper's words and here: the highest sequence probability);
- gold first answers: the second question of a part-whole type follows the correct first answer. This changes what is
  asked and not how it is counted, so it belongs to the run (`part_whole: gold`, the default).
"""

from enum import StrEnum

AUTHORS_PREFIX = "authors_"


class MetricProtocol(StrEnum):
    """Whose counting."""

    OURS = "ours"
    AUTHORS = "authors"


PROTOCOL_METRICS = (
    "giou_micro_paired",
    "giou_macro_paired",
    "parts_precision",
    "parts_recall",
    "parts_accuracy",
    "objects_accuracy",
)
"""The columns of the paper's tables, which exist under both protocols."""


def metric_of(protocol: MetricProtocol, name: str) -> str:
    """Name of a summary's metric that a table's column shows under a protocol.

    Args:
        protocol: Whose counting.
        name: One of `PROTOCOL_METRICS`.

    Raises:
        ValueError: The metric does not exist under both protocols.
    """
    if name not in PROTOCOL_METRICS:
        raise ValueError(f"metric {name!r} has one protocol alone; under both exist: {', '.join(PROTOCOL_METRICS)}")
    return name if protocol is MetricProtocol.OURS else AUTHORS_PREFIX + name

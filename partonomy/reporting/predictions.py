"""Exports a run's replies and masks as one JSON list for other tools; each benchmark defines its entries."""

from dataclasses import dataclass
from pathlib import Path

from partonomy.files import json_bytes, open_atomically
from partonomy.reporting.loaded_run import AnyRun


@dataclass(frozen=True)
class PredictionSummary:
    """The number of written entries, and the records that have none because their items could not be read."""

    num_written: int
    unreadable: tuple[str, ...]


def write_predictions(run: AnyRun, output: Path) -> PredictionSummary:
    """Write the JSON list, one entry per item of the run, in the order of its records; see `Task.prediction`.

    Args:
        run: A finished run. If its benchmark's entries repeat the items (Partonomy: the published records), the data
            must still be at their original location.
        output: File to write; image paths in it are relative to its folder.

    Raises:
        FileNotFoundError: The items no longer exist.
        ValueError: The items have changed since the run.
    """
    needs_items = run.task.EXPORT_NEEDS_ITEMS
    task = run.load_task() if needs_items else run.task
    items = {item.item_id: item for item in task.items}
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = output.parent.resolve()
    num_written, unreadable = 0, []
    with open_atomically(output) as file:
        file.write(b"[\n")
        for record in run.records:
            item = items.get(record.item_id)
            if item is None and needs_items:
                unreadable.append(record.item_id)
                continue
            entry = task.prediction(record, item, folder)
            file.write((b",\n" if num_written else b"") + json_bytes(entry))
            num_written += 1
        file.write(b"\n]\n")
    return PredictionSummary(num_written, tuple(unreadable))

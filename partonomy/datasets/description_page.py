"""Writes a data set's description: charts as PNG files, and one self-contained HTML page with them and the numbers."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from matplotlib.figure import Figure

from partonomy.datasets.description import QUANTILES, RARE_BELOW, Description, describe_dataset
from partonomy.datasets.description_charts import (
    draw_label_counts,
    draw_mask_sizes,
    draw_object_part_map,
    draw_part_sizes,
    draw_parts_per_image,
)
from partonomy.evaluation.files import write_text_atomically
from partonomy.structures import PartDataset

PAGE_FILE = "describe.html"
DOTS_PER_INCH = 110
NUM_ROWS = 200
"""Labels of a vocabulary that the page's tables list: the most and the least frequent half of them."""


@dataclass(frozen=True)
class Chart:
    """A chart on the page: `data` is the PNG file in base64."""

    title: str
    file_name: str
    data: str


@dataclass(frozen=True)
class LabelTable:
    """A vocabulary: `rows` are labels with counts, falling; `num_hidden` between its halves are not listed."""

    title: str
    unit: str
    num_labels: int
    num_rare: int
    rows: tuple[tuple[str, int], ...]
    num_hidden: int


@dataclass(frozen=True)
class DescriptionPage:
    """Everything the template shows. `quantiles` of mask sizes are shares of the image."""

    description: Description
    charts: tuple[Chart, ...]
    tables: tuple[LabelTable, ...]
    quantiles: tuple[tuple[float, float], ...]
    rare_below: int


def write_description(dataset: PartDataset, output: Path) -> tuple[Path, ...]:
    """Write charts and page.

    Args:
        dataset: annotations; no image is read.
        output: folder, created when missing; files of the same names are replaced.

    Returns:
        The files, the page last.

    Raises:
        ValueError: the data set has no part mask.
    """
    description = describe_dataset(dataset)
    output.mkdir(parents=True, exist_ok=True)
    charts = []
    for file_name, (title, figure) in _draw_all(description).items():
        figure.savefig(output / file_name, dpi=DOTS_PER_INCH, facecolor="white", metadata={"Software": None})
        charts.append(Chart(title, file_name, base64.b64encode((output / file_name).read_bytes()).decode("ascii")))
    page = DescriptionPage(
        description=description,
        charts=tuple(charts),
        tables=(
            _label_table("Objects", "images", description.images_per_object),
            _label_table("Parts", "masks", description.masks_per_part),
            _label_table("Object-part labels", "masks", _joined(description)),
        ),
        quantiles=tuple(zip(QUANTILES, description.area_quantiles(), strict=True)),
        rare_below=RARE_BELOW,
    )
    environment = Environment(
        loader=PackageLoader("partonomy", "datasets"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_text_atomically(output / PAGE_FILE, environment.get_template("describe.html.j2").render(page=page))
    return (*(output / chart.file_name for chart in charts), output / PAGE_FILE)


def _draw_all(description: Description) -> Mapping[str, tuple[str, Figure]]:
    """Title and figure by file name."""
    pairs = _joined(description)
    return {
        "images_per_object.png": (
            "Images per object",
            draw_label_counts(description.images_per_object, "object", "images"),
        ),
        "masks_per_part.png": ("Masks per part", draw_label_counts(description.masks_per_part, "part", "masks")),
        "masks_per_object_part.png": (
            "Masks per object-part label",
            draw_label_counts(pairs, "object-part label", "masks"),
        ),
        "parts_per_image.png": ("Parts per image and per object", draw_parts_per_image(description)),
        "mask_sizes.png": ("Mask sizes", draw_mask_sizes(description)),
        "mask_sizes_per_part.png": ("Mask sizes per part", draw_part_sizes(description)),
        "objects_and_parts.png": ("Objects and parts", draw_object_part_map(description)),
    }


def _joined(description: Description) -> dict[str, int]:
    return {f"{label}: {part}": count for (label, part), count in description.masks_per_object_part.items()}


def _label_table(title: str, unit: str, counts: Mapping[str, int]) -> LabelTable:
    rows = tuple(counts.items())
    num_hidden = max(0, len(rows) - NUM_ROWS)
    shown = rows if not num_hidden else rows[: NUM_ROWS // 2] + rows[-NUM_ROWS // 2 :]
    num_rare = sum(count < RARE_BELOW for count in counts.values())
    return LabelTable(title, unit, len(rows), num_rare, shown, num_hidden)

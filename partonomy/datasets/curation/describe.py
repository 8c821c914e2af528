"""Describes a data set by label frequencies, parts per image and mask sizes.

The description is written as PNG charts and a self-contained HTML page.
"""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from partonomy.datasets.curation.describe_pictures import Photograph
from partonomy.datasets.curation.statistics import DatasetStatistics
from partonomy.files import open_atomically, write_text_atomically
from partonomy.masks import rle_area
from partonomy.structures import PartDataset

RARE_BELOW = 5
"""Labels with fewer annotations are rare: the paper drops such parts (appendix B)."""
TINY_SHARE = 0.0005
"""Fraction of the image's pixels below which a mask counts as tiny."""
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
NUM_NAMED = 30
"""Number of labels that a chart names; if there are more, a curve by rank shows all of them."""
LOWEST_COUNT = 0.5
"""Lower end of the scale of colours of counts, so that a cell of a single mask is not as white as an empty one."""
MAX_WRITTEN_CELLS = 400
"""A heat map with more cells than this shows only colours, no numbers."""
BAR_HEIGHT = 0.24  # inches
MIN_ROWS = 4
"""Minimum height of a bar chart, in bars."""
MAX_LABEL_LENGTH = 34
PAGE_FILE = "describe.html"
DOTS_PER_INCH = 110
NUM_ROWS = 200
"""Maximum number of labels in a table of the page: one half are the most frequent, the other the least frequent."""


@dataclass(frozen=True)
class Description:
    """The counts and sizes of a data set. Mappings are sorted by descending count, then by label.

    Attributes:
        name: name of the data set.
        statistics: its sizes.
        images_per_object: number of images that show an object of the label with an annotated part.
        masks_per_part: number of masks of a part label over all objects.
        masks_per_object_part: number of masks of an `object:part` label.
        parts_per_image: number of part masks of every image, int64 (images,).
        parts_per_object: number of part masks of every object instance that has any, int64 (instances,).
        area_shares: fraction of the image's pixels that each part mask covers, float64 (masks,).
        mask_parts: the part label of each mask, aligned with `area_shares`.
    """

    name: str
    statistics: DatasetStatistics
    images_per_object: Mapping[str, int]
    masks_per_part: Mapping[str, int]
    masks_per_object_part: Mapping[tuple[str, str], int]
    parts_per_image: np.ndarray
    parts_per_object: np.ndarray
    area_shares: np.ndarray
    mask_parts: tuple[str, ...]

    @property
    def tiny_share(self) -> float:
        """Fraction of the masks that cover less than `TINY_SHARE` of their image."""
        return float((self.area_shares < TINY_SHARE).mean())

    def area_quantiles(self) -> tuple[float, ...]:
        """`QUANTILES` of `area_shares`."""
        return tuple(float(value) for value in np.quantile(self.area_shares, QUANTILES))


@dataclass(frozen=True)
class Measurements:
    """Counts and measurements of some of a data set's images, to be joined in the order of the images.

    Attributes:
        name: name of the data set.
        num_object_centric: number of images that show exactly one annotated object.
        num_instances: number of objects, with or without parts.
        images_per_object: (object label, number of images that show it with a part).
        masks_per_object_part: (object label, part label, number of masks).
        parts_per_image, parts_per_object, area_shares, mask_parts: see `Description`.
    """

    name: str
    num_object_centric: int
    num_instances: int
    images_per_object: tuple[tuple[str, int], ...]
    masks_per_object_part: tuple[tuple[str, str, int], ...]
    parts_per_image: tuple[int, ...]
    parts_per_object: tuple[int, ...]
    area_shares: tuple[float, ...]
    mask_parts: tuple[str, ...]


def measure(dataset: PartDataset) -> Measurements:
    """Measure the images of a data set or of a shard of it."""
    instances = [(image, one) for image in dataset.images for one in image.objects if one.parts]
    objects = Counter(label for image in dataset.images for label in {one.label for one in image.objects if one.parts})
    pairs = Counter((one.label, part.label) for _, one in instances for part in one.parts)
    return Measurements(
        name=dataset.name,
        num_object_centric=sum(len(image.objects) == 1 for image in dataset.images),
        num_instances=sum(len(image.objects) for image in dataset.images),
        images_per_object=tuple(objects.items()),
        masks_per_object_part=tuple((*pair, count) for pair, count in pairs.items()),
        parts_per_image=tuple(sum(len(one.parts) for one in image.objects) for image in dataset.images),
        parts_per_object=tuple(len(one.parts) for _, one in instances),
        area_shares=tuple(
            rle_area(part.mask) / (image.height * image.width) for image, one in instances for part in one.parts
        ),
        mask_parts=tuple(part.label for _, one in instances for part in one.parts),
    )


def describe_measurements(parts: Sequence[Measurements]) -> Description:
    """Join the measurements of all shards in the order of their images.

    Raises:
        ValueError: there are no part masks.
    """
    name = parts[0].name
    objects: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    masks: Counter[str] = Counter()
    for one in parts:
        objects.update(dict(one.images_per_object))
        for label, part, count in one.masks_per_object_part:
            pairs[label, part] += count
            masks[part] += count
    parts_per_image = [count for one in parts for count in one.parts_per_image]
    if not pairs:
        raise ValueError(
            f"{name}: none of the {len(parts_per_image)} images has an annotated part, so there is nothing to describe"
        )
    return Description(
        name=name,
        statistics=DatasetStatistics(
            num_objects=len(objects),
            num_parts=len(masks),
            num_object_parts=len(pairs),
            num_images=len(parts_per_image),
            num_masks=masks.total(),
            num_instances=sum(one.num_instances for one in parts),
            num_object_centric=sum(one.num_object_centric for one in parts),
        ),
        images_per_object=dict(sorted(objects.items(), key=lambda row: (-row[1], row[0]))),
        masks_per_part=dict(sorted(masks.items(), key=lambda row: (-row[1], row[0]))),
        masks_per_object_part=dict(sorted(pairs.items(), key=lambda row: (-row[1], row[0]))),
        parts_per_image=np.array(parts_per_image),
        parts_per_object=np.array([count for one in parts for count in one.parts_per_object]),
        area_shares=np.array([share for one in parts for share in one.area_shares]),
        mask_parts=tuple(label for one in parts for label in one.mask_parts),
    )


def describe_dataset(dataset: PartDataset) -> Description:
    """Measure a data set and return its description.

    Raises:
        ValueError: there are no part masks.
    """
    return describe_measurements([measure(dataset)])


MAX_MAP_OBJECTS, MAX_MAP_PARTS = 30, 40
BLUE, RED, GREY = "#1d4ed8", "#b42318", "#5d6878"


def draw_label_counts(counts: Mapping[str, int], kind: str, unit: str) -> Figure:
    """Draw bars of the most frequent labels and, if there are more, a curve of all labels by rank.

    Args:
        counts: label -> count, in descending order.
        kind: the kind of label, in the singular ("object").
        unit: the counted unit, in the plural ("images").
    """
    labels, values = list(counts), list(counts.values())
    has_tail = len(labels) > NUM_NAMED
    named = labels[:NUM_NAMED]
    num_rows = max(len(named), MIN_ROWS)
    figure = Figure(figsize=(12 if has_tail else 8, 1.1 + BAR_HEIGHT * num_rows), layout="constrained")
    axes = figure.subplots(1, 2 if has_tail else 1, squeeze=False)[0]
    bars = axes[0].barh(range(len(named)), values[: len(named)], color=BLUE, height=0.72)
    axes[0].bar_label(bars, labels=[f"{value:,}" for value in values[: len(named)]], padding=3, fontsize=8, color=GREY)
    axes[0].set_yticks(range(len(named)), [_shorten(label) for label in named], fontsize=9)
    axes[0].set_ylim(num_rows - 0.4, -0.6)
    axes[0].margins(x=0.12)
    axes[0].set_xlabel(unit)
    axes[0].xaxis.get_major_locator().set_params(integer=True)
    number = f"the top {len(named)} of {len(labels):,}" if has_tail else f"all {len(labels)}"
    axes[0].set_title(f"{unit[:1].upper()}{unit[1:]} per {kind}: {number}", loc="left", fontsize=11)
    _tidy(axes[0], "x")
    if has_tail:
        _draw_ranks(axes[1], values, unit)
    return figure


def draw_parts_per_image(description: Description) -> Figure:
    """Draw histograms of the part masks per image and per object instance."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    counted = (("image", description.parts_per_image), ("object instance", description.parts_per_object))
    for axis, (kind, values) in zip(axes, counted, strict=True):
        # One bin per integer, or wider bins if an image shows hundreds.
        step = max(1, -(-int(values.max() + 1) // 40))
        edges = np.arange(values.min(), values.max() + step + 1, step) - 0.5
        axis.hist(values, bins=edges, color=BLUE, rwidth=0.9 if step == 1 else 1.0)
        axis.axvline(values.mean(), color=RED, linewidth=1.2, linestyle="--")
        axis.set_title(f"Parts per {kind}: mean {values.mean():.1f}, most {values.max()}", loc="left", fontsize=11)
        axis.set_xlabel("annotated parts" + (f" (in steps of {step})" if step > 1 else ""))
        axis.set_ylabel(f"{kind}s")
        for one in (axis.xaxis, axis.yaxis):
            one.get_major_locator().set_params(integer=True)
        _tidy(axis, "y")
    return figure


def draw_mask_sizes(description: Description) -> Figure:
    """Draw a histogram of the fraction of the image that part masks cover, on a logarithmic axis."""
    shares = description.area_shares[description.area_shares > 0]
    low = min(float(shares.min()), TINY_SHARE) * 0.8
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axis = figure.subplots()
    axis.hist(shares, bins=list(np.geomspace(low, 1.0, 50)), color=BLUE, rwidth=0.95)
    axis.set_xscale("log")
    axis.set_xlim(low, 1.0)
    axis.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    axis.axvline(TINY_SHARE, color=RED, linewidth=1.2, linestyle="--")
    tiny = f"{description.tiny_share:.1%} are tiny, below {TINY_SHARE:.2%} (dashed)"
    axis.set_title(f"Sizes of {len(description.area_shares):,} part masks; {tiny}", loc="left", fontsize=11)
    axis.set_xlabel("share of the image's pixels")
    axis.set_ylabel("masks")
    _tidy(axis, "y")
    return figure


def draw_part_sizes(description: Description) -> Figure:
    """Draw box plots of the mask sizes of the most frequent parts, largest median first.

    The box shows quartiles and median; the whiskers show the 5th and 95th percentiles.
    """
    labels = list(description.masks_per_part)[:NUM_NAMED]
    parts = np.array(description.mask_parts)
    shares = {label: np.maximum(description.area_shares[parts == label], 1e-9) for label in labels}
    ordered = sorted(labels, key=lambda label: -float(np.median(shares[label])))
    figure = Figure(figsize=(9, max(2.4, 1.1 + BAR_HEIGHT * len(ordered))), layout="constrained")
    axis = figure.subplots()
    axis.boxplot(
        [shares[label] for label in ordered],
        orientation="horizontal",
        tick_labels=[f"{_shorten(label)} ({len(shares[label]):,})" for label in ordered],
        whis=(5, 95),
        widths=0.6,
        showfliers=False,
        medianprops={"color": RED, "linewidth": 1.5},
        boxprops={"color": BLUE},
        whiskerprops={"color": BLUE},
        capprops={"color": BLUE},
    )
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    axis.tick_params(axis="y", labelsize=9)
    axis.set_xlabel("share of the image's pixels")
    number = len(description.masks_per_part)
    which = f"the {len(ordered)} most frequent of {number:,}" if number > len(ordered) else f"all {number}"
    axis.set_title(f"Mask sizes per part (masks): {which}", loc="left", fontsize=11)
    _tidy(axis, "x")
    return figure


def draw_object_part_map(description: Description) -> Figure:
    """Draw a heat map of masks per object and part; for a large vocabulary, only the most frequent ones."""
    objects = list(description.images_per_object)[:MAX_MAP_OBJECTS]
    shown = {pair: count for pair, count in description.masks_per_object_part.items() if pair[0] in objects}
    totals: dict[str, int] = {}
    for (_, part), count in shown.items():
        totals[part] = totals.get(part, 0) + count
    parts = sorted(totals, key=lambda part: (-totals[part], part))[:MAX_MAP_PARTS]
    counts = np.array([[shown.get((label, part), 0) for part in parts] for label in objects])  # [objects, parts]
    figure = Figure(figsize=(3.2 + 0.27 * len(parts), 2.6 + 0.24 * len(objects)), layout="constrained")
    axis = figure.subplots()
    highest = max(2, int(counts.max()))
    image = axis.imshow(np.ma.masked_equal(counts, 0), cmap="Blues", norm=LogNorm(LOWEST_COUNT, highest), aspect="auto")
    figure.colorbar(image, ax=axis, label="masks", format="%d", shrink=0.8)
    axis.set_xticks(range(len(parts)), [_shorten(part) for part in parts], rotation=90, fontsize=8)
    axis.set_yticks(range(len(objects)), [_shorten(label) for label in objects], fontsize=8)
    if counts.size <= MAX_WRITTEN_CELLS:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if count > highest**0.6 else "black"
                axis.text(column, row, str(count), ha="center", va="center", fontsize=7, color=colour)
    num_objects, num_parts = len(description.images_per_object), len(description.masks_per_part)
    is_all = (num_objects, num_parts) == (len(objects), len(parts))
    title = "Masks per object and part"
    if not is_all:
        title += f"\n{len(objects)} of {num_objects} objects, {len(parts)} of {num_parts} parts: the most frequent"
    axis.set_title(title, loc="left", fontsize=11)
    return figure


def _draw_ranks(axis: Axes, values: Sequence[int], unit: str) -> None:
    ranks = range(1, len(values) + 1)
    axis.plot(ranks, values, color=BLUE, linewidth=1.6, drawstyle="steps-mid")
    axis.axvspan(1, NUM_NAMED, color=BLUE, alpha=0.08, linewidth=0)
    axis.set_yscale("log")
    axis.set_ylim(bottom=0.8)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.yaxis.set_minor_locator(NullLocator())
    num_rare = sum(value < RARE_BELOW for value in values)
    axis.axhline(RARE_BELOW, color=RED, linewidth=1.2, linestyle="--")
    axis.set_title(
        f"All {len(values):,} by rank; {num_rare:,} below {RARE_BELOW} {unit} (dashed)", loc="left", fontsize=11
    )
    axis.set_xlabel("rank (shaded: named on the left)")
    axis.set_ylabel(unit)
    _tidy(axis, "y")


def _tidy(axis: Axes, grid: str) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)
    axis.grid(visible=True, axis="x" if grid == "x" else "y", alpha=0.25)


def _shorten(label: str) -> str:
    return label if len(label) <= MAX_LABEL_LENGTH else label[: MAX_LABEL_LENGTH - 1] + "…"


@dataclass(frozen=True)
class Chart:
    """A chart of the page; `data` is the PNG file in base64."""

    title: str
    file_name: str
    data: str


@dataclass(frozen=True)
class LabelTable:
    """A vocabulary. `rows` are labels by descending count; `num_hidden` labels between the halves are left out."""

    title: str
    unit: str
    num_labels: int
    num_rare: int
    rows: tuple[tuple[str, int], ...]
    num_hidden: int


@dataclass(frozen=True)
class DescriptionPage:
    """The template's content. `quantiles` of mask sizes are fractions of the image."""

    description: Description
    photographs: tuple[Photograph, ...]
    charts: tuple[Chart, ...]
    tables: tuple[LabelTable, ...]
    quantiles: tuple[tuple[float, float], ...]
    rare_below: int


def write_description(
    description: Description, output: Path, photographs: Sequence[Photograph] = ()
) -> tuple[Path, ...]:
    """Write the charts and the page.

    Args:
        description: the description of the data set.
        photographs: annotated photographs to show on the page.
        output: folder to write, created if missing; files of the same names are replaced.

    Returns:
        The files written, the page last.
    """
    output.mkdir(parents=True, exist_ok=True)
    charts = []
    for file_name, (title, figure) in _draw_all(description).items():
        with open_atomically(output / file_name) as file:
            figure.savefig(file, format="png", dpi=DOTS_PER_INCH, facecolor="white", metadata={"Software": None})
        charts.append(Chart(title, file_name, base64.b64encode((output / file_name).read_bytes()).decode("ascii")))
    page = DescriptionPage(
        description=description,
        photographs=tuple(photographs),
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
        loader=PackageLoader("partonomy.datasets.curation", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_text_atomically(output / PAGE_FILE, environment.get_template("describe.html.j2").render(page=page))
    return (*(output / chart.file_name for chart in charts), output / PAGE_FILE)


def _draw_all(description: Description) -> Mapping[str, tuple[str, Figure]]:
    """Draw all charts; return title and figure by file name."""
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

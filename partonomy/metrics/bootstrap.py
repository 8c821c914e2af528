"""95% bootstrap confidence intervals over images (percentile method; Efron and Tibshirani 1993, chapter 13).

Every metric of the benchmark is a ratio of two sums over images (micro-gIoU: IoUs over masks; accuracy: correct over
asked; precision: matched over predicted names). A resample draws as many images as there are, with replacement, and
divides the two resampled sums. Images are drawn instead of masks or questions, because those of the same image are not
independent.
"""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 1000
_CHUNK = 100


@dataclass(frozen=True)
class ImageRatio:
    """A metric as a ratio of sums: float64 (I,) numerators and denominators, one per image.

    `value_if_empty` is the metric's value if the denominators sum to 0 although something was counted (`count` > 0): 1
    for the cIoU of empty masks, 0 for the precision of no predictions.
    """

    numerators: np.ndarray
    denominators: np.ndarray
    count: int
    value_if_empty: float = 0.0

    @property
    def value(self) -> float | None:
        """The metric over all images; None if nothing was counted."""
        if self.count == 0:
            return None
        total = float(self.denominators.sum())
        return float(self.numerators.sum()) / total if total > 0 else self.value_if_empty

    @property
    def num_images(self) -> int:
        """I."""
        return len(self.numerators)


RECALL_LEVELS = np.linspace(0.0, 1.0, 101)
"""COCO's levels of recall, at which precision is averaged."""


@dataclass(frozen=True)
class RankedHits:
    """Average precision at one IoU threshold, over ranked predictions that are hits or misses (COCO's AP50).

    In a resample, an image that is drawn k times has each of its predictions k times in a row.

    Attributes:
        rows: int64 (P,), the image of each prediction, in the order of the ranking.
        is_hit: bool (P,), whether each prediction is matched with a true mask.
        num_true: int64 (I,), true masks of each image.
    """

    rows: np.ndarray
    is_hit: np.ndarray
    num_true: np.ndarray

    @property
    def count(self) -> int:
        """Number of true masks."""
        return int(self.num_true.sum())

    @property
    def num_images(self) -> int:
        """I."""
        return len(self.num_true)

    @property
    def value(self) -> float | None:
        """The average precision over all images; None if nothing is true."""
        return float(self.resample(np.ones((1, self.num_images)))[0]) if self.count else None

    def resample(self, counts: np.ndarray) -> np.ndarray:
        """Return the average precision of resamples, float64 (R,); 0 in one without true masks.

        Args:
            counts: float64 (R, I), how often each image was drawn.
        """
        weights = counts[:, self.rows]  # [R, P]
        hits = np.cumsum(weights * self.is_hit, axis=1)
        precisions = hits / np.maximum(np.cumsum(weights, axis=1), 1.0)
        # The largest precision at this recall or a higher one.
        precisions = np.maximum.accumulate(precisions[:, ::-1], axis=1)[:, ::-1]
        num_true = counts @ self.num_true.astype(np.float64)  # [R]
        means = np.zeros(len(counts))
        for row, (found, precision, total) in enumerate(zip(hits, precisions, num_true, strict=True)):
            if total > 0:
                places = np.searchsorted(found / total, RECALL_LEVELS, side="left")
                means[row] = precision[places[places < len(precision)]].sum() / len(RECALL_LEVELS)
        return means


@dataclass(frozen=True)
class MeanOfRatios:
    """The unweighted mean of several metrics over the same images, such as POPE's mean F1 over its categories."""

    parts: tuple[ImageRatio | RankedHits, ...]
    count: int

    @property
    def value(self) -> float | None:
        """The mean over all images; a ratio without counts is 0. None if nothing was counted at all."""
        if self.count == 0:
            return None
        return float(np.mean([part.value or 0.0 for part in self.parts]))


@dataclass(frozen=True)
class Estimate:
    """A value, its 95% confidence interval, and the number of masks, images or questions; None if there were none."""

    value: float | None
    low: float | None
    high: float | None
    count: int


def bootstrap_ratios(
    ratios: Sequence[ImageRatio | RankedHits], generator: np.random.Generator, num_resamples: int = NUM_RESAMPLES
) -> tuple[Estimate, ...]:
    """Estimate the confidence intervals of several metrics over the same images, from the same resamples.

    Args:
        ratios: M metrics over the same I images.
        generator: Source of the resamples.
        num_resamples: Number of resamples.

    Returns:
        M estimates. A resample in which a metric's denominators sum to 0 takes its `value_if_empty`.
    """
    if not ratios:
        return ()
    samples = resample_ratios(ratios, generator, num_resamples)
    estimates = []
    for column, ratio in enumerate(ratios):
        if ratio.value is None:
            estimates.append(Estimate(None, None, None, 0))
            continue
        low, high = np.percentile(samples[:, column], (2.5, 97.5))
        estimates.append(Estimate(ratio.value, float(low), float(high), ratio.count))
    return tuple(estimates)


def bootstrap_metrics(
    metrics: Mapping[str, "ImageRatio | RankedHits | MeanOfRatios | None"], generator: np.random.Generator
) -> dict[str, Estimate]:
    """Estimate the confidence intervals of named metrics over the same images; a metric that is None counts nothing.

    All ratios share their resamples. Each mean of ratios is then resampled separately.
    """
    ratios = {name: metric for name, metric in metrics.items() if isinstance(metric, ImageRatio | RankedHits)}
    estimates = dict(zip(ratios, bootstrap_ratios(tuple(ratios.values()), generator), strict=True))
    for name, metric in metrics.items():
        if isinstance(metric, MeanOfRatios) and metric.value is not None:
            samples = resample_ratios(metric.parts, generator, NUM_RESAMPLES).mean(axis=1)  # [resamples]
            low, high = np.percentile(samples, (2.5, 97.5))
            estimates[name] = Estimate(metric.value, float(low), float(high), metric.count)
    nothing = Estimate(None, None, None, 0)
    return {name: estimates.get(name, nothing) for name in metrics}


def paired_differences(
    firsts: Sequence["ImageRatio | RankedHits | MeanOfRatios"],
    seconds: Sequence["ImageRatio | RankedHits | MeanOfRatios"],
    generator: np.random.Generator,
    num_resamples: int = NUM_RESAMPLES,
) -> tuple[Estimate, ...]:
    """Estimate the differences between two runs' metrics over the same I images, all from the same resamples.

    Each resample draws one set of images for both runs and all metrics.

    Args:
        firsts: M metrics of the first run.
        seconds: The same M metrics of the second run, which are subtracted.
        generator: Source of the resamples.
        num_resamples: Number of resamples.

    Returns:
        M estimates whose `count` is I; empty estimates for metrics that a run does not have.

    Raises:
        ValueError: The runs do not cover the same number of images.
    """
    metrics = (*firsts, *seconds)
    parts = [metric.parts if isinstance(metric, MeanOfRatios) else (metric,) for metric in metrics]
    ratios = [ratio for of_metric in parts for ratio in of_metric]
    sizes = {ratio.num_images for ratio in ratios}
    if len(sizes) > 1:
        raise ValueError(f"the runs cover {' and '.join(map(str, sorted(sizes)))} images, not the same ones")
    if not ratios:
        return tuple(Estimate(None, None, None, 0) for _ in firsts)
    (num_images,) = sizes
    samples = resample_ratios(ratios, generator, num_resamples)  # [resamples, ratios]
    ends = np.cumsum([len(of_metric) for of_metric in parts])
    columns = [
        samples[:, end - len(of_metric) : end].mean(axis=1) if of_metric else np.zeros(num_resamples)
        for of_metric, end in zip(parts, ends, strict=True)
    ]
    estimates = []
    for place, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
        if first.value is None or second.value is None:
            estimates.append(Estimate(None, None, None, 0))
            continue
        low, high = np.percentile(columns[place] - columns[len(firsts) + place], (2.5, 97.5))
        estimates.append(Estimate(first.value - second.value, float(low), float(high), num_images))
    return tuple(estimates)


def resample_ratios(
    ratios: Sequence[ImageRatio | RankedHits], generator: np.random.Generator, num_resamples: int
) -> np.ndarray:
    """Return the metrics of every resample, float64 (num_resamples, M)."""
    sums = [ratio for ratio in ratios if isinstance(ratio, ImageRatio)]
    is_sum = np.array([isinstance(ratio, ImageRatio) for ratio in ratios])
    num_images = ratios[0].num_images
    empty = np.array([ratio.value_if_empty for ratio in sums])
    if num_images == 0:
        samples = np.zeros((num_resamples, len(ratios)))
        samples[:, is_sum] = empty
        return samples
    if sums:
        numerators = np.stack([ratio.numerators for ratio in sums], axis=1).astype(np.float64)  # [I, M]
        denominators = np.stack([ratio.denominators for ratio in sums], axis=1).astype(np.float64)  # [I, M]
    chunks = []
    for start in range(0, num_resamples, _CHUNK):  # chunks limit the counts in memory to (100, I)
        size = min(_CHUNK, num_resamples - start)
        counts = generator.multinomial(num_images, np.full(num_images, 1 / num_images), size=size)  # [r, I]
        chunk = np.empty((size, len(ratios)))
        if sums:
            tops, bottoms = counts @ numerators, counts @ denominators  # [r, M]
            chunk[:, is_sum] = np.where(bottoms > 0, tops / np.where(bottoms > 0, bottoms, 1.0), empty)
        for column, ratio in enumerate(ratios):
            if isinstance(ratio, RankedHits):
                chunk[:, column] = ratio.resample(counts)
        chunks.append(chunk)
    return np.concatenate(chunks)


class Terms:
    """Contributions of questions, masks or images to a ratio, each with the image that it belongs to.

    The numbers are kept as columns: a run of many records has millions of contributions.
    """

    def __init__(self) -> None:
        self.image_ids: list[int | str] = []
        self.numerators = array("d")
        self.denominators = array("d")

    def add(self, image_id: int | str, numerator: float, denominator: float = 1) -> None:
        """Append one contribution."""
        self.image_ids.append(image_id)
        self.numerators.append(numerator)
        self.denominators.append(denominator)


class ImageIndex:
    """The images of a set of records, sorted by id."""

    def __init__(self, image_ids: Iterable[int | str]) -> None:
        self.image_ids: Sequence[int | str] = sorted(
            set(image_ids), key=lambda image_id: (str(type(image_id)), image_id)
        )
        self._row_of = {image_id: row for row, image_id in enumerate(self.image_ids)}

    def ratio(self, terms: Terms, value_if_empty: float = 0.0) -> ImageRatio:
        """Sum the terms by image, in their order; images without a term contribute 0 to both sums.

        Args:
            terms: The contributions; each counts as one mask, image or question.
            value_if_empty: The metric's value if the denominators sum to 0.
        """
        rows = [self._row_of[image_id] for image_id in terms.image_ids]
        numerators, denominators = (
            np.bincount(rows, weights=values, minlength=len(self.image_ids)) if rows else np.zeros(len(self.image_ids))
            for values in (terms.numerators, terms.denominators)
        )
        return ImageRatio(numerators, denominators, len(rows), value_if_empty)

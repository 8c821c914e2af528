"""A model's own answers, question by question and together, for bench_eval.py."""

import statistics
from collections import Counter
from collections.abc import Collection, Sequence

from partonomy.harness.batching import ShownQuestion, mask_request, without_repetitions

from partonomy.benchmarks.partonomy.steps import question_steps, step_turns
from partonomy.harness.ranks import ImageGroup
from partonomy.images import load_image
from partonomy.models.contract import AnswerRequest, ChoiceRequest, Generation
from partonomy.structures import QuestionType
from plum.inference.predictor import Prediction, Predictor
from plum.inference.question_batch import QuestionBatch
from scripts.bench.device_clock import seconds_now
from scripts.bench.eval_world import EvaluationWorld
from scripts.bench.peak_memory import peak_bytes, reset_peak


class AnswersOfBatch:
    """Questions of some images, at the moment when a run asks for own answers: all else has been asked.

    Args:
        predictor: the model.
        groups: images with their questions.
        types: whose own answers are wanted; the same words about the same image are asked once, as in a run.
        max_new_tokens: longest answer.
    """

    def __init__(
        self, predictor: Predictor, groups: Sequence[ImageGroup], types: Collection[QuestionType], max_new_tokens: int
    ) -> None:
        self.predictor, self.max_new_tokens = predictor, max_new_tokens
        first = [group.questions[0] for group in groups]
        self.images = [load_image(one.image_path, one.height, one.width) for one in first]
        scored, segmented, own = [], [], []
        for image, group in enumerate(groups):
            for question in group.questions:
                steps = question_steps(question)
                gold = [step.choices[step.correct_index] for step in steps]
                turns = [step_turns(steps, index, gold) for index in range(len(steps))]
                scored += [
                    ChoiceRequest(image, asked, step.choices, step.phrases)
                    for asked, step in zip(turns, steps, strict=True)
                ]
                segmented.append(mask_request(ShownQuestion(question, image), steps, gold))
                if question.question_type in types:
                    own.append(AnswerRequest(image, segmented[-1].turns))
        self.requests = without_repetitions(own)
        self.together = QuestionBatch(predictor, [predictor.images.read(image) for image in self.images])
        self.together.score_choices(scored)
        self.together.segment(without_repetitions(segmented))

    def words_plain(self) -> list[str]:
        """Words, question by question."""
        alone = self.predictor.generate_text
        return [alone(self.images[one.image], one.turns, self.max_new_tokens) for one in self.requests]

    def words_fast(self) -> list[str]:
        """Words, together; with the marks of a system that writes any."""
        return self.together.write_answers(self.requests, self.max_new_tokens)

    def plain(self) -> list[Prediction]:
        """Words and masks, question by question."""
        alone = self.predictor.generate
        return [alone(self.images[one.image], one.turns, self.max_new_tokens) for one in self.requests]

    def fast(self) -> list[Generation]:
        """Words and masks, together."""
        return self.together.generate(self.requests, self.max_new_tokens)


def compare_own_answers(
    world: EvaluationWorld, types: Collection[QuestionType], max_new_tokens: int, repeats: int
) -> dict[str, object]:
    """Write answers of all questions of some types both ways.

    Returns:
        `answers` and `answers_per_batch`; seconds per answer `plain` and `fast`, and of the words alone; their ratios;
        `masks` of the plain answers; `differing_texts`: answers of other words or tagged spans; `differing_masks`: of
        all others, masks with a pixel that differs; peak memory in MB.
    """
    device = world.predictor.device
    ways = ("fast", "plain", "words_fast", "words_plain")
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    peaks = dict.fromkeys(ways, 0)
    counts: Counter[str] = Counter()
    for repeat in range(repeats + 1):
        passed = dict.fromkeys(ways, 0.0)
        for groups in world.batches:
            batch, answers = AnswersOfBatch(world.predictor, groups, types, max_new_tokens), {}
            for way in ways:
                reset_peak(device)
                start = seconds_now(device)
                answers[way] = getattr(batch, way)()
                passed[way] += seconds_now(device) - start
                peaks[way] = max(peaks[way], peak_bytes(device))
            if repeat == 0:  # the first one warms up; answers do not change
                counts += count_differences(answers["plain"], answers["fast"])
        for way in ways if repeat else ():
            seconds[way].append(passed[way] / counts["answers"])
    found = {way: statistics.median(values) for way, values in seconds.items()}
    return {
        "answers": counts["answers"],
        "answers_per_batch": counts["answers"] / len(world.batches),
        **{f"seconds_{way}": round(value, 5) for way, value in found.items()},
        "ratio": round(found["plain"] / found["fast"], 2),
        "ratio_words": round(found["words_plain"] / found["words_fast"], 2),
        **{name: counts[name] for name in ("masks", "differing_texts", "differing_masks")},
        **{f"peak_mb_{way}": round(peaks[way] / 1e6) for way in ways},
    }


def count_differences(plain: Sequence[Prediction], fast: Sequence[Generation]) -> Counter[str]:
    """Count masks, answers of other words or spans, and of all others the masks that differ."""
    counts: Counter[str] = Counter()
    for alone, together in zip(plain, fast, strict=True):
        counts["answers"] += 1
        counts["masks"] += len(alone.masks)
        if (alone.text, alone.spans) == (together.text, together.spans):
            counts["differing_masks"] += int((alone.masks != together.masks).any((1, 2)).sum())
        else:
            counts["differing_texts"] += 1
    return counts

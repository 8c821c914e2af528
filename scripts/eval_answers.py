"""A model's own answers, question by question and together, for bench_eval.py."""

import statistics
from collections import Counter
from collections.abc import Sequence

from partonomy.evaluation.model_api import AnswerRequest, ChoiceRequest, Generation, MaskRequest, Role, Turn
from partonomy.evaluation.sharding import ImageGroup
from partonomy.images import load_image
from partonomy.structures import Question
from plum.inference.question_batch import QuestionBatch
from plum.predictor import Prediction, Predictor
from scripts.device_clock import seconds_now
from scripts.eval_world import EvaluationWorld


class AnswersOfBatch:
    """Questions of some images, at the moment when a run asks for own answers: all else has been asked.

    Args:
        predictor: the model.
        groups: images with their questions.
        max_new_tokens: longest answer.
    """

    def __init__(self, predictor: Predictor, groups: Sequence[ImageGroup], max_new_tokens: int) -> None:
        self.predictor, self.max_new_tokens = predictor, max_new_tokens
        first = [group.questions[0] for group in groups]
        self.images = [load_image(one.image_path, one.height, one.width) for one in first]
        asked = [(i, question) for i, group in enumerate(groups) for question in group.questions]
        self.requests = [AnswerRequest(i, _turns(question)) for i, question in asked]
        self.together = QuestionBatch(predictor, [predictor.images.read(image) for image in self.images])
        self.together.score_choices([_choice_request(*one) for one in asked])
        self.together.segment([_mask_request(*one) for one in asked])

    def words_plain(self) -> list[str]:
        """Words, question by question."""
        alone = self.predictor.generate_text
        return [alone(self.images[one.image], one.turns, self.max_new_tokens) for one in self.requests]

    def words_fast(self) -> list[str]:
        """Words, together."""
        return self.together.generate_texts(self.requests, self.max_new_tokens)

    def plain(self) -> list[Prediction]:
        """Words and masks, question by question."""
        alone = self.predictor.generate
        return [alone(self.images[one.image], one.turns, self.max_new_tokens) for one in self.requests]

    def fast(self) -> list[Generation]:
        """Words and masks, together."""
        return self.together.generate(self.requests, self.max_new_tokens)


def compare_own_answers(world: EvaluationWorld, max_new_tokens: int, repeats: int) -> dict[str, object]:
    """Write answers of all questions both ways; returns what the text of bench_eval.py says."""
    device = world.predictor.device
    ways = ("fast", "plain", "words_fast", "words_plain")
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    counts: Counter[str] = Counter()
    for repeat in range(repeats + 1):
        passed = dict.fromkeys(ways, 0.0)
        for groups in world.batches:
            batch, answers = AnswersOfBatch(world.predictor, groups, max_new_tokens), {}
            for way in ways:
                start = seconds_now(device)
                answers[way] = getattr(batch, way)()
                passed[way] += seconds_now(device) - start
            if repeat == 0:  # the first one warms up; answers do not change
                counts += count_differences(answers["plain"], answers["fast"])
        for way in ways if repeat else ():
            seconds[way].append(passed[way] / world.num_questions)
    found = {way: statistics.median(values) for way, values in seconds.items()}
    return {
        **{f"seconds_{way}": round(value, 5) for way, value in found.items()},
        "ratio": round(found["plain"] / found["fast"], 2),
        "ratio_words": round(found["words_plain"] / found["words_fast"], 2),
        **{name: counts[name] for name in ("masks", "differing_texts", "differing_masks")},
    }


def count_differences(plain: Sequence[Prediction], fast: Sequence[Generation]) -> Counter[str]:
    """Count masks, answers of other words or spans, and of all others the masks that differ."""
    counts: Counter[str] = Counter()
    for alone, together in zip(plain, fast, strict=True):
        counts["masks"] += len(alone.masks)
        if (alone.text, alone.spans) == (together.text, together.spans):
            counts["differing_masks"] += int((alone.masks != together.masks).any((1, 2)).sum())
        else:
            counts["differing_texts"] += 1
    return counts


def _turns(question: Question) -> tuple[Turn, ...]:
    return (Turn(Role.USER, question.text),)


def _choice_request(image: int, question: Question) -> ChoiceRequest:
    texts = tuple(choice.text for choice in question.choices)
    return ChoiceRequest(image, _turns(question), texts, ((),) * len(texts))


def _mask_request(image: int, question: Question) -> MaskRequest:
    choice = question.correct_choice
    return MaskRequest(image, _turns(question), choice.text, tuple(choice.part_spans))

"""`python -m plum segment`: ask one question about one image."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from partonomy.evaluation.model_api import Role, Turn
from partonomy.questions.phrases import locate_phrases
from plum.cli.show import format_spans, read_image, write_prediction
from plum.data.sources.wordings import list_targets
from plum.partonomy_adapter import load_predictor
from plum.predictor import Prediction, Predictor


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("segment", help="answer a question about an image and segment what the answer names")
    parser.add_argument("--checkpoint", required=True, help="folder of a saved model")
    parser.add_argument("--image", required=True, type=Path, help="image file")
    parser.add_argument("--question", required=True, help="what to ask")
    parser.add_argument("--phrases", default="", help="comma-separated phrases to segment instead of the tagged ones")
    parser.add_argument("--output", required=True, type=Path, help="folder for overlay (PNG) and masks (JSON)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.set_defaults(run=_run)


def ask(predictor: Predictor, image: np.ndarray, question: str, phrases: Sequence[str] = ()) -> Prediction:
    """Ask one question.

    Args:
        predictor: the model.
        image: uint8 RGB (H, W, 3).
        question: the user's words.
        phrases: to segment in place of the tagged ones. Where the model's own answer has them all, they are highlighted
            there; otherwise the answer is forced: "It is the wheel.", "They are the wheel and door."
    """
    turns = (Turn(Role.USER, question),)
    if not phrases:
        return predictor.generate(image, turns)
    answer = predictor.generate_text(image, turns)
    try:
        spans = sorted(locate_phrases(answer, phrases), key=lambda span: span.start)
    except ValueError:
        forced = list_targets(phrases)
        answer, spans = forced.text, list(forced.spans)
    found = predictor.segment(image, turns, answer, spans)
    return Prediction(answer, tuple(spans), (1.0,) * len(spans), found.masks, found.confidences)


def _run(arguments: argparse.Namespace) -> None:
    image = read_image(arguments.image)
    predictor = load_predictor(arguments.checkpoint, arguments.device)
    phrases = [phrase.strip() for phrase in arguments.phrases.split(",") if phrase.strip()]
    prediction = ask(predictor, image, arguments.question, phrases)
    overlay, record = write_prediction(prediction, image, arguments.output, arguments.image.stem)
    print(prediction.text)
    print(format_spans(prediction))
    print(f"overlay: {overlay}\nmasks:   {record}")

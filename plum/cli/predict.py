"""`python -m plum predict`: ask about a folder of images; write overlays, masks as JSON, and one HTML page."""

import argparse
from pathlib import Path

from plum.cli.commands import COMMANDS
from plum.cli.highlight_flags import add_highlight_flags, read_highlight
from plum.cli.model_flags import add_model_flags


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("predict", help=COMMANDS["predict"])
    parser.add_argument("images", nargs="+", type=Path, help="folders (searched recursively) or image files")
    parser.add_argument("--question", action="append", default=[], help="question to ask about every image; repeatable")
    parser.add_argument(
        "--questions",
        type=Path,
        help="JSON list or CSV file of records with the key question and, if needed, image, phrases, char_ranges, "
        "answer",
    )
    add_highlight_flags(parser)
    parser.add_argument(
        "--output", required=True, type=Path, help="folder to write; must be new unless --resume is given"
    )
    parser.add_argument("--resume", action="store_true", help="continue in --output and retry failed images")
    add_model_flags(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from plum.checkpoints.hub import find_checkpoint
    from plum.checkpoints.weights import fingerprint
    from plum.inference.folder_prediction import (
        FAILURES_FILE,
        RECORDS_FILE,
        QuestionRequest,
        build_requests,
        find_images,
        predict_folder,
    )
    from plum.inference.highlight import NOTHING
    from plum.inference.partonomy_adapter import load_predictor

    highlight = read_highlight(arguments)
    if highlight != NOTHING and not arguments.question:
        raise ValueError("--phrases, --char_range and --answer belong to --question; records have their own keys")
    questions = [QuestionRequest(question, highlight) for question in arguments.question]
    requests = build_requests(find_images(arguments.images), questions, arguments.questions)
    checkpoint = find_checkpoint(arguments.checkpoint)
    predictor = load_predictor(str(checkpoint), arguments.device, dtype=arguments.dtype)
    model_name = f"{arguments.checkpoint} ({fingerprint(checkpoint)[:12]})"
    result = predict_folder(
        predictor,
        requests,
        arguments.output,
        model_name,
        resume=arguments.resume,
        max_new_tokens=arguments.max_new_tokens,
    )
    before = f", {result.num_before} done earlier" if result.num_before else ""
    print(f"{result.num_done} images done{before}, {len(result.failures)} failed")
    if result.num_cut:
        limit = "--max_new_tokens, or the model's context"
        print(f"{result.num_cut} of {result.num_answers} answers were cut at the limit on their length ({limit})")
    print(f"masks: {arguments.output / RECORDS_FILE}\npage:  {result.page}")
    if result.failures:
        shown = "; ".join(f"{name}: {reason}" for name, reason in result.failures[:5])
        raise ValueError(
            f"{len(result.failures)} of {len(requests)} images failed ({shown}); see all of them in "
            f"{arguments.output / FAILURES_FILE}"
        )

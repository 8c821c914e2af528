"""Flags of the commands that answer with a saved model: `segment`, `predict` and `chat`."""

import argparse

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEFAULT_NEW_TOKENS, DEFAULT_ABOUT_SEVERAL = 256, 1024


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--checkpoint", required=True, help="folder of a saved model, or its name on the Hugging Face Hub"
    )
    parser.add_argument(
        "--device", default="auto", help="auto (the first GPU, or the CPU), cpu, cuda, cuda:1, mps, ..."
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default=DTYPES[0], help="auto: bfloat16 on a CUDA GPU, float32 elsewhere"
    )
    parser.add_argument(
        "--max_new_tokens",
        type=positive,
        default=None,
        help="maximum length of an answer in tokens; an answer that it ends is marked (default: "
        f"{DEFAULT_NEW_TOKENS}, about several images {DEFAULT_ABOUT_SEVERAL})",
    )


def positive(text: str) -> int:
    """Read a positive integer.

    Raises:
        argparse.ArgumentTypeError: the text is anything else.
    """
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)

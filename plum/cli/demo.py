"""`python -m plum demo`: a web page to ask about photos and to segment any words of the answer."""

import argparse
import importlib.util

from plum.cli.commands import COMMANDS
from plum.cli.model_flags import add_model_flags

DEFAULT_PORT = 7860
INSTALL = "pip install -r requirements-demo.txt"


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("demo", help=COMMANDS["demo"])
    parser.add_argument("--port", type=_port, default=DEFAULT_PORT, help=f"port of the page (default: {DEFAULT_PORT})")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at (default: 127.0.0.1, which only this machine reaches; 0.0.0.0: the network, too)",
    )
    parser.add_argument(
        "--share",
        type=_truth,
        nargs="?",
        const=True,
        default=False,
        metavar="true|false",
        help="open a public address through gradio's servers: anybody who knows it can use the page (default: false)",
    )
    add_model_flags(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    if importlib.util.find_spec("gradio") is None:
        raise ValueError(f"the demo page needs gradio: {INSTALL}")
    from plum.demo.page import build_page, check_port, launch, users_files, wait_for_the_end
    from plum.demo.session import Demo
    from plum.inference.partonomy_adapter import load_predictor

    check_port(arguments.host, arguments.port)
    predictor = load_predictor(arguments.checkpoint, arguments.device, dtype=arguments.dtype)
    with users_files() as folder:
        page = build_page(Demo(predictor, arguments.max_new_tokens), arguments.checkpoint, folder)
        address = launch(page, arguments.host, arguments.port, share=arguments.share)
        print(f"The page is at {address} (Ctrl-C ends)", flush=True)
        wait_for_the_end()
        page.close(verbose=False)


def _port(text: str) -> int:
    if not text.strip().isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; choose one from 1024 to 65535")
    return int(text)


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"

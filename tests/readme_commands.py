"""Commands as a user types them, given to the project's own argument parsers without running anything."""

import importlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import auto_parser

from partonomy.__main__ import build_parser as partonomy_parser
from partonomy.cli.parsers import parse_words
from partonomy.cli.run import benchmark_parser
from plum.cli.main import build_parser as plum_parser
from plum.training.config_file import load_train_config
from scripts.make_miniature_data import build_parser as miniature_parser
from scripts.smoke_overfit import parse as parse_smoke

ROOT = Path(__file__).resolve().parents[1]
TRAIN_SCRIPTS = {
    "scripts/train.sh": None,
    "scripts/train_plum_0shot.sh": "configs/plum_13b_0shot.yaml",
    "scripts/train_plum_ft.sh": "configs/plum_13b_ft.yaml",
    "scripts/train_calico.sh": "configs/calico_7b.yaml",
}
"""Launchers and the configuration they take when none is named."""


def bash_commands(markdown: str) -> list[str]:
    """Command lines of all ```bash blocks: continued lines joined, comments and optional brackets removed."""
    lines: list[str] = []
    for block in re.findall(r"^```bash\n(.*?)^```", markdown, flags=re.MULTILINE | re.DOTALL):
        joined = block.replace("\\\n", " ")
        lines += [line for line in joined.splitlines() if shlex.split(line, comments=True)]
    return [line.replace("[", "").replace("]", "") for line in lines]


def parse_command(words: Sequence[str]) -> str:
    """Parse a command without running it.

    Returns:
        Which parser took it.

    Raises:
        SystemExit, ValueError: a flag or value is not accepted.
        KeyError: no parser knows the program.
    """
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):  # NUM_RANKS=4 bash ...
        words = words[1:]
    program, arguments = list(words[:1]), list(words[1:])
    if program == ["python"]:
        return _parse_python(arguments)
    if program == ["bash"] and arguments[0] in TRAIN_SCRIPTS:
        default = TRAIN_SCRIPTS[arguments[0]]
        config = arguments[1] if len(arguments) > 1 else str(default)
        load_train_config(_from_root(["--config", config, *arguments[2:]]))
        return "train script"
    if program == ["bash"] and (ROOT / arguments[0]).is_file():
        if arguments[0] == "scripts/smoke_overfit.sh":
            parse_smoke(_from_root(["--config", *arguments[1:]]))
        return "script"
    raise KeyError(f"no parser for {' '.join(words)}")


def _parse_python(arguments: Sequence[str]) -> str:
    name, rest = arguments[0], list(arguments[1:])
    if name == "-m":
        if rest[0] == "plum":
            parse_words(plum_parser(), rest[1:])
        elif rest[1:2] != ["run"]:
            parse_words(partonomy_parser(rest[1]), rest[1:])
        if rest[:2] in (["plum", "validate"], ["partonomy", "run"]):
            default_model = "plum" if rest[0] == "plum" else None
            parse_words(benchmark_parser(rest[2], default_model=default_model), rest[3:])
        return f"-m {rest[0]}"
    if name == "train.py":
        load_train_config(_from_root(rest))
        return name
    if name == "validate_partonomy.py":
        benchmark_parser("partonomy", "validate_partonomy.py").parse_args(rest)
        return name
    if name == "scripts/make_miniature_data.py":
        miniature_parser().parse_args(rest)
    elif name.startswith("scripts/bench/"):
        main = importlib.import_module(name.removesuffix(".py").replace("/", ".")).main
        auto_parser(main, as_positional=False).parse_args(rest)
    else:
        raise KeyError(f"no parser for python {name}")
    return "script"


def _from_root(arguments: Sequence[str]) -> list[str]:
    """Configuration files are named from the repository's root, wherever the tests run."""
    return [str(ROOT / word) if word.startswith("configs/") else word for word in arguments]

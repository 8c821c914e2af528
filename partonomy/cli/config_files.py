"""Finds the YAML files that a command's settings came from, so that a message about a bad key can name them."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from partonomy.yaml_files import require_mapping, require_unique_keys

FLAG = "--config"


def config_files(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the files given as `--config FILE` or `--config=FILE`: first those of the former kind."""
    files = [following for word, following in zip(arguments, arguments[1:], strict=False) if word == FLAG]
    joined = [word.removeprefix(f"{FLAG}=") for word in arguments if word.startswith(f"{FLAG}=")]
    return (*files, *joined)


@contextmanager
def naming_config_files(arguments: Sequence[str]) -> Iterator[None]:
    """Print the configuration files' names below the parser's message if it refuses an argument or a key.

    Raises:
        ValueError: a configuration file is empty or no mapping, or a key occurs twice in it; the message names both.
    """
    for file in config_files(arguments):
        require_unique_keys(Path(file))
        require_mapping(Path(file))
    try:
        yield
    except SystemExit as stop:
        files = config_files(arguments)
        if stop.code and files:
            print(f"The settings came from {', '.join(files)} and the command line.", file=sys.stderr)
        raise

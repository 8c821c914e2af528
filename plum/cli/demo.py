"""`python -m plum demo`: a web page to ask about photos and to segment any words of the answer."""

import importlib.util
from typing import TYPE_CHECKING

from partonomy.cli.flags import checked_number
from plum.cli.model_flags import ModelFlags

INSTALL = "pip install -r requirements-demo.txt"

if TYPE_CHECKING:
    Port = int
else:
    Port = checked_number("Port", 1, 65535, "is not a port; choose one from 1024 to 65535")


def demo(*, model: ModelFlags, port: Port = 7860, host: str = "127.0.0.1", share: bool = False) -> None:
    """Ask about photos on a web page, and segment any words of the answer.

    Args:
        model: the model.
        port: port of the page
        host: address to listen at; only this machine reaches 127.0.0.1, the network reaches 0.0.0.0, too
        share: open a public address through gradio's servers: anybody who knows it can use the page

    Raises:
        FileNotFoundError: the checkpoint does not exist.
        ValueError: gradio is not installed, or the port is taken.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ValueError(f"the demo page needs gradio: {INSTALL}")
    from plum.demo.page import build_page, check_port, launch, users_files, wait_for_the_end
    from plum.demo.session import Demo
    from plum.inference.partonomy_adapter import load_predictor

    check_port(host, port)
    predictor = load_predictor(model.checkpoint, model.device, dtype=model.dtype)
    with users_files() as folder:
        page = build_page(Demo(predictor, model.max_new_tokens), model.checkpoint, folder)
        address = launch(page, host, port, share=share)
        print(f"The page is at {address} (Ctrl-C ends)", flush=True)
        wait_for_the_end()
        page.close(verbose=False)

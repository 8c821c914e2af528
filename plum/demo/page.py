"""The demo page in gradio: lays out the controls, connects them to `plum.demo.session`, and serves the page."""

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from partonomy.machine_faults import is_out_of_memory
from partonomy.models.contract import ModelUnavailable
from partonomy.terminal import one_line
from plum.demo.downloads import write_downloads
from plum.demo.session import Demo, Session
from plum.demo.view import render_view
from plum.inference.api import QUESTION

logger = logging.getLogger(__name__)

NO_MEMORY = "The memory does not suffice: send fewer or smaller photos, or segment fewer phrases."
INTERNAL_ERROR = "An internal error occurred; the terminal that runs plum demo shows it."
PAGE_CSS = ".gradio-container { width: 100% !important; max-width: 88rem !important; margin: 0 auto !important; }"


@dataclass(frozen=True)
class PageState:
    """What the server keeps of one browser tab.

    Attributes:
        session: the conversation.
        folder: folder of the shown answer's files to download; None if it has none.
    """

    session: Session = Session()
    folder: Path | None = None


@dataclass(frozen=True)
class Controls:
    """Components of the page."""

    state: gr.State
    photos: gr.File
    question: gr.Textbox
    ask: gr.Button
    sentence: gr.Textbox
    use_sentence: gr.Button
    overlay: gr.DownloadButton
    masks: gr.DownloadButton
    start_again: gr.Button
    remove_photos: gr.Button
    view: gr.HTML


Action = Callable[[Session], Session]


def build_page(demo: Demo, model_name: str, folder: Path) -> gr.Blocks:
    """Build the page.

    Args:
        demo: answers the page's users.
        model_name: shown on the page.
        folder: folder for files to download.
    """
    with gr.Blocks(title="PLUM", analytics_enabled=False, fill_width=True) as page:
        _connect(demo, _lay_out(model_name), folder)
    return page


def _lay_out(model_name: str) -> Controls:
    gr.HTML(f"<h1>PLUM</h1><p>Model: <code>{_escape(model_name)}</code></p>")
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            photos = gr.File(label="Add photos", file_count="multiple", height=140, elem_id="photos")
            question = gr.Textbox(QUESTION, label="Question", lines=2, elem_id="question")
            ask = gr.Button("Ask", variant="primary", elem_id="ask")
            sentence = gr.Textbox(
                label="Or your own sentence",
                placeholder="The biplane has a red propeller.",
                info="It takes the place of the answer, and you select words of it.",
                elem_id="sentence",
            )
            use_sentence = gr.Button("Use this sentence", elem_id="use-sentence")
            with gr.Row():
                overlay = gr.DownloadButton(
                    "Overlay (PNG)", interactive=False, size="sm", min_width=110, elem_id="overlay"
                )
                masks = gr.DownloadButton(
                    "Masks (COCO RLE)", interactive=False, size="sm", min_width=110, elem_id="masks"
                )
            with gr.Row():
                start_again = gr.Button("New conversation", size="sm", min_width=110, elem_id="start-again")
                remove_photos = gr.Button("Remove photos", size="sm", min_width=110, elem_id="remove-photos")
        with gr.Column(scale=5, min_width=320):
            source = files("plum.demo")
            view = gr.HTML(
                render_view(Session()),
                css_template=(source / "view.css").read_text(encoding="utf-8"),
                js_on_load=(source / "view.js").read_text(encoding="utf-8"),
                elem_id="view",
            )
    state = gr.State(PageState(), delete_callback=_delete_files)
    return Controls(
        state, photos, question, ask, sentence, use_sentence, overlay, masks, start_again, remove_photos, view
    )


def _connect(demo: Demo, controls: Controls, folder: Path) -> None:
    """Connect the controls to the actions of the demo."""

    def act(state: PageState, action: Action) -> list[Any]:
        new, error = _try_action(state, action)
        return _show(state, new, error, folder)

    def add_photos(state: PageState, paths: list[str] | None) -> list[Any]:
        uploaded = [Path(path) for path in paths or ()]
        try:
            return [*act(state, lambda session: demo.add_photos(session, uploaded)), None]
        finally:
            for path in uploaded:  # the photos are in memory now
                path.unlink(missing_ok=True)

    def ask(state: PageState, question: str) -> list[Any]:
        return act(state, lambda session: demo.ask(session, question))

    def use_sentence(state: PageState, sentence: str) -> list[Any]:
        return act(state, lambda session: demo.use_sentence(session, sentence))

    def segment(state: PageState, event: gr.EventData) -> list[Any]:
        start, end = int(event.start), int(event.end)
        return act(state, lambda session: demo.segment(session, start, end))

    def show_own_phrases(state: PageState) -> list[Any]:
        return act(state, demo.show_own_phrases)

    def start_again(state: PageState) -> list[Any]:
        return act(state, demo.start_again)

    def remove_photos(state: PageState) -> list[Any]:
        return act(state, lambda _: Session())

    shown = [controls.state, controls.view, controls.overlay, controls.masks]

    def connect(
        triggers: Sequence[Any], function: Callable[..., Any], inputs: Sequence[Any] = (), outputs: Sequence[Any] = ()
    ) -> None:
        for trigger in triggers:
            trigger(
                function,
                [controls.state, *inputs],
                [*shown, *outputs],
                api_visibility="private",
                show_progress="full",
                show_progress_on=controls.view,
            )

    connect([controls.photos.upload], add_photos, [controls.photos], [controls.photos])
    connect([controls.ask.click, controls.question.submit], ask, [controls.question])
    connect([controls.use_sentence.click, controls.sentence.submit], use_sentence, [controls.sentence])
    connect([controls.view.segment], segment)
    connect([controls.view.own_phrases], show_own_phrases)
    connect([controls.start_again.click], start_again)
    connect([controls.remove_photos.click], remove_photos)


def _try_action(state: PageState, action: Action) -> tuple[PageState, str]:
    """Run an action.

    Returns:
        The new state; or, if the action fails, the state before it and one sentence that says why.
    """
    try:
        return replace(state, session=action(state.session)), ""
    except Exception as error:
        if is_out_of_memory(error):
            return state, NO_MEMORY
        if isinstance(error, ValueError | ModelUnavailable):
            return state, one_line(str(error))
        logger.exception("an action of the demo page failed")  # the page shows no traceback; the terminal does
        return state, INTERNAL_ERROR


def _show(before: PageState, state: PageState, error: str, folder: Path) -> list[Any]:
    """Return the values of the state, the view and the download buttons after an action."""
    shown = state.session.shown
    if error or shown is before.session.shown:
        return [state, render_view(state.session, error), gr.skip(), gr.skip()]
    _delete_files(before)
    if shown is None or not shown.predictions:
        empty = gr.DownloadButton(value=None, interactive=False)
        return [replace(state, folder=None), render_view(state.session), empty, empty]
    # A new folder for each answer: a browser may keep what it has downloaded from the same address.
    own = Path(tempfile.mkdtemp(prefix="answer_", dir=folder))
    overlay, masks = write_downloads(state.session.photos, shown, own)
    return [
        replace(state, folder=own),
        render_view(state.session),
        gr.DownloadButton(value=str(overlay), interactive=True),
        gr.DownloadButton(value=str(masks), interactive=True),
    ]


def _delete_files(state: PageState) -> None:
    if state.folder is not None:
        shutil.rmtree(state.folder, ignore_errors=True)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def check_port(host: str, port: int) -> None:
    """Check that a port is free, before the model is loaded.

    Raises:
        ValueError: it is not, or the host is not an address of this machine.
    """
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"{host}:{port} cannot be used ({reason}): choose another --port or --host") from error


@contextmanager
def users_files() -> Iterator[Path]:
    """Give a temporary folder for the users' files, which gradio uses, too; it is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="plum_demo_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield Path(folder)


def launch(page: gr.Blocks, host: str, port: int, *, share: bool = False) -> str:
    """Start serving the page in the background.

    Args:
        page: see `build_page`.
        host: address to listen at; 127.0.0.1: only this machine reaches the page.
        port: see `check_port`.
        share: open a public address through gradio's servers.

    Returns:
        The page's address.

    Raises:
        ValueError: gradio's servers gave no public address.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it reports gradio's requests to itself
    _, local, public = page.launch(
        server_name=host,
        server_port=port,
        share=share,
        quiet=True,
        inbrowser=False,
        prevent_thread_lock=True,
        show_error=False,
        ssr_mode=False,
        run_history=False,
        footer_links=[],
        theme=gr.themes.Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace")),
        css=PAGE_CSS,
    )
    if share and not public:
        page.close()
        raise ValueError("gradio's servers gave no public address; see docs/demo.md for a connection over ssh")
    return str(public or local)


def wait_for_the_end() -> None:
    """Wait for Ctrl-C, or for a request to terminate."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()

"""The web page around one radiograph, served by Gradio, and the walls around it.

What an upload leaves on this machine, and for how long: a file below a temporary folder that only its owner can enter;
it gets a neutral name and is deleted as soon as it is read, after `MOST_SECONDS` if nobody asks for it, and with the
folder when the server ends. The folder of a server that was killed is removed by the next one.

Gradio would look for newer versions, count its users, keep the runs of a page in the browser, offer share links and
take a dozen settings out of the environment. All of that is off; what is left could not connect: the process refuses
connections to other machines, and the page forbids the browser to fetch anything from elsewhere.
"""

import asyncio
import contextlib
import hashlib
import hmac
import os
import secrets
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from evaluation.case_page import BANNER, STYLE, case_html, refusal_html
from evaluation.case_result import Case
from training.files import lock_folder
from training.offline import use_local_files_only

BEGINNING = "radiograph-page-"  # of the temporary folders' names
MOST_SECONDS = 600  # that an upload lies here before it is asked for
WAITING = 16  # uploads that may wait for their turn
SECONDS_AFTER_WRONG_PASSWORD = 1.0
INTRODUCTION = "<div class='earlier'>Choose a radiograph: PNG, JPEG, TIFF, BMP or DICOM.</div>"
POLICY = "; ".join([
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'", "connect-src 'self' data: blob:",
    "form-action 'self'", "base-uri 'self'", "object-src 'none'", "frame-ancestors 'none'",
])  # fmt: skip
# a result must never stand beside the next radiograph: it goes as soon as another file is chosen
FORGET = """() => {
  const forget = () => document.querySelectorAll('#result [data-number]').forEach((old) => {
    old.className = 'earlier'
    old.textContent = 'The result of an earlier file is gone.'
  })
  document.addEventListener('change', (event) => { if (event.target.type === 'file') forget() }, true)
  document.addEventListener('drop', forget, true)
}"""
SLIDE = "(percent) => { document.documentElement.style.setProperty('--map', percent / 100) }"
SHOW = "(on) => { document.body.classList.toggle('regions-off', !on) }"
FAILED = "This radiograph could not be analysed; the server's log says why. Other files still can be."
Analyse = Callable[[Path], Case]


class Refused(ValueError):
    """Why a file has no result: one sentence for whoever uploaded it."""


def own_folder(within: Path | None = None) -> tuple[Path, object]:
    """A temporary folder for uploads that only this user can enter, and its lock; leftovers of killed servers go."""
    base = Path(tempfile.gettempdir()) if within is None else within
    for old in base.glob(f"{BEGINNING}*"):
        with contextlib.suppress(OSError):  # of another user, or in use
            if old.is_dir() and not old.is_symlink() and old.stat().st_uid == os.getuid():
                lock_folder(old, "in use", required=True).close()
                shutil.rmtree(old)
    folder = Path(tempfile.mkdtemp(prefix=BEGINNING, dir=base))
    return folder, lock_folder(folder, "in use")


def shut_off(folder: Path) -> None:
    """Settings of this process before Gradio is imported: `folder` for files, and nothing that asks other machines."""
    for name in list(os.environ):
        if name.startswith("GRADIO_"):
            del os.environ[name]
    use_local_files_only()
    os.environ |= {
        "GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False",
    }  # fmt: skip
    tempfile.tempdir = str(folder)  # what libraries write in passing, too


def answer(analyse: Analyse, upload: str | None, folder: Path) -> str:
    """The result of an uploaded file as HTML, or a sentence; the upload is gone then, and its name was never read."""
    if upload is None:
        return INTRODUCTION
    try:
        given = Path(upload).resolve()
        if not given.is_relative_to(folder.resolve()):
            return refusal_html("This is no upload of this page.")
        taken = folder / secrets.token_hex(16)
        os.replace(given, taken)
    except OSError:
        return refusal_html("The upload is no longer here; please choose the file again.")
    with contextlib.suppress(OSError):  # the folder that it came in, if nothing else is in it
        given.parent.rmdir()
    try:
        return case_html(analyse(taken))
    except Refused as error:
        return refusal_html(str(error))
    except Exception:  # the page must not go on showing another radiograph's result, nor the server end
        traceback.print_exc()
        return refusal_html(FAILED)
    finally:
        taken.unlink(missing_ok=True)


def forget_uploads(folder: Path, seconds: float = MOST_SECONDS) -> int:
    """Delete files that have lain in `folder` for longer than `seconds`; returns how many."""
    count, now = 0, time.time()
    for path in sorted(folder.rglob("*"), reverse=True):
        with contextlib.suppress(OSError):  # taken or still filled meanwhile
            if path.is_dir() and not path.is_symlink():
                if now - path.stat().st_mtime > seconds:
                    path.rmdir()
            elif path.name != ".lock" and now - path.lstat().st_mtime > seconds:
                path.unlink()
                count += 1
    return count


def build_page(analyse: Analyse, folder: Path, title: str = "Region-guided reading of one radiograph"):
    """Gradio's blocks. Import of Gradio; `shut_off` comes first."""
    import gradio

    with gradio.Blocks(title=title, analytics_enabled=False) as page:
        gradio.HTML(f"<h1>{title}</h1>{BANNER}")
        with gradio.Row():
            upload = gradio.File(label="Radiograph", file_count="single", type="filepath", elem_id="upload", height=130)
            with gradio.Column():
                opacity = gradio.Slider(
                    0, 100, value=60, step=1, label="Opacity of the error map, %", elem_id="opacity"
                )
                shown = gradio.Checkbox(value=True, label="Regions", elem_id="regions")
        result = gradio.HTML(INTRODUCTION, elem_id="result")
        upload.upload(lambda path: (None, answer(analyse, path, folder)), upload, [upload, result],
                      api_visibility="private", concurrency_limit=1)  # fmt: skip
        opacity.change(None, opacity, None, js=SLIDE)
        shown.change(None, shown, None, js=SHOW)
        page.load(None, None, None, js=FORGET)
    return page.queue(max_size=WAITING)


def serve(page, *, host: str, port: int, max_bytes: int, users: Mapping[str, str]) -> None:
    """Serve `page` in threads of their own. ValueError if the port is taken."""
    import gradio
    from starlette.middleware import Middleware

    plain = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    try:
        page.launch(
            server_name=host, server_port=port, max_file_size=max_bytes, auth=login(users) if users else None,
            share=False, inbrowser=False, prevent_thread_lock=True, quiet=True, show_error=False, footer_links=[],
            enable_monitoring=False, ssr_mode=False, pwa=False, mcp_server=False, theme=plain, css=STYLE,
            app_kwargs={"middleware": [Middleware(Walls)], "docs_url": None, "redoc_url": None, "openapi_url": None},
        )  # fmt: skip
    except OSError as error:
        if "port" not in str(error):
            raise
        raise ValueError(f"port {port} of {host} cannot be served; is another server there?") from error


def login(users: Mapping[str, str]):
    """Asks whether a user has this password; in the same time for all, and slowly after a wrong one."""
    known = {user: hashlib.sha256(password.encode()).digest() for user, password in users.items()}

    async def right(user: str, password: str) -> bool:
        given = hashlib.sha256(password.encode("utf-8", "replace")).digest()
        fits = hmac.compare_digest(known.get(user, bytes(32)), given)
        if not fits:
            await asyncio.sleep(SECONDS_AFTER_WRONG_PASSWORD)
        return fits

    return right


class Walls:
    """ASGI: each answer forbids the browser to fetch from elsewhere and to keep what it shows."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        """Pass a request on and add headers to its answer."""

        async def headed(message):
            if message["type"] == "http.response.start":
                extra = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer"),
                         (b"x-content-type-options", b"nosniff")]  # fmt: skip
                kept = [(name, value) for name, value in message["headers"] if name.lower() != b"cache-control"]
                extra.append((b"cache-control", b"no-store"))
                message = message | {"headers": kept + extra}
            await send(message)

        await self.app(scope, receive, headed)


def keep_tidy(folder: Path, end: threading.Event, every: float = 60) -> None:
    """Until `end` is set, delete what was uploaded and never asked for."""
    while not end.wait(every):
        forget_uploads(folder)

"""``secure-fedhelp foundation``: serve the demo's teacher where a consortium would run a real inference server."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="A small foundation model server for demos (Open Inference Protocol v2).\n\n"
    "Example: secure-fedhelp foundation serve --model-file teacher.npz --listen 127.0.0.1:8080",
    no_args_is_help=True,
)


@app.callback()
def _foundation() -> None:
    """Keeps ``serve`` a sub-command although it is the only one."""


@app.command()
def serve(
    model_file: Annotated[Path, typer.Option(help="The teacher, an .npz file of plain arrays.")],
    listen: Annotated[str, typer.Option(help="HOST:PORT on loopback; port 0 takes a free one.")] = "127.0.0.1:0",
    name: Annotated[str, typer.Option(help="Name under which the model is served.")] = "teacher",
    address_file: Annotated[Path | None, typer.Option(help="Write the HOST:PORT in use to this file.")] = None,
) -> None:
    """Serve a teacher until SIGTERM or Ctrl-C: loopback and plain HTTP, for demos and tests.

    Example: secure-fedhelp foundation serve --model-file teacher.npz --listen 127.0.0.1:8000
    """
    from secure_fedhelp.research.foundation_server import FoundationServer
    from secure_fedhelp.research.teacher import Teacher
    from secure_fedhelp.study.files import write_atomic

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with FoundationServer(Teacher.load(model_file), name, listen) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        if address_file is not None:
            write_atomic(address_file, f"{server.address}\n".encode())
        typer.echo(f"serving {name} at http://{server.address}")
        stop.wait()
        server.shutdown()
        thread.join()

"""`dmx serve`."""

from __future__ import annotations

import atexit
import ipaddress
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from depthmask.commands.options import (
    PathType,
    device_option,
    messages,
    resolutions_option,
    runtime_option,
    threads_option,
)
from depthmask.errors import InputError, InterruptedWorkError, UsageError
from depthmask.frames import Resolution
from depthmask.serve.settings import MIB, ServeSettings

if TYPE_CHECKING:
    from depthmask.pipeline import Pipeline

_DEFAULTS = ServeSettings()
_SECONDS = click.FloatRange(min=0.1, max=86400)


@click.command()
@click.argument("bundle", type=PathType(), required=False)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. There is no login.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0 takes a free one; stdout says which.",
)
@runtime_option
@device_option
@threads_option
@resolutions_option
@click.option(
    "--web",
    type=PathType(),
    help="A folder to serve at /.  [default: web/ in the bundle, where it has one]",
)
@click.option(
    "--queue",
    type=click.IntRange(1, 10000),
    default=_DEFAULTS.queue,
    show_default=True,
    help="Requests that may wait for the one in work; further ones get 429.",
)
@click.option(
    "--max-upload-mib",
    type=click.FloatRange(min=0, min_open=True, max=1024),
    default=_DEFAULTS.max_upload_bytes / MIB,
    show_default=True,
    help="Of an image file; a larger one gets 413.",
)
@click.option(
    "--max-megapixels",
    type=click.FloatRange(min=0, min_open=True, max=1000),
    default=_DEFAULTS.max_pixels / 1e6,
    show_default=True,
    help="Of an image; a larger one gets 413, before it is decoded.",
)
@click.option(
    "--read-timeout",
    "read_timeout_s",
    type=_SECONDS,
    default=_DEFAULTS.read_timeout_s,
    show_default=True,
    metavar="SECONDS",
    help="For a whole request to arrive.",
)
@click.option(
    "--drain-timeout",
    "drain_timeout_s",
    type=_SECONDS,
    default=_DEFAULTS.drain_timeout_s,
    show_default=True,
    metavar="SECONDS",
    help="After SIGTERM or Ctrl-C, for the accepted requests to be answered.",
)
def command(
    bundle: Path | None,
    host: str,
    port: int,
    runtime: str,
    device: str,
    threads: int | None,
    resolutions: tuple[Resolution, ...] | None,
    web: Path | None,
    queue: int,
    max_upload_mib: float,
    max_megapixels: float,
    read_timeout_s: float,
    drain_timeout_s: float,
) -> None:
    """Answer requests over HTTP with a bundle (by default the shipped lite), beside its web page.

    POST /v1/predict takes an image and gives mask and depth; docs/service.md has the rest. SIGTERM and
    Ctrl-C end it once the accepted requests are answered.

    \b
    Examples:
      dmx serve
      dmx serve lite-224-int8 --port 8080 --threads 2
      curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' \\
        'http://127.0.0.1:8000/v1/predict?output=overlay' -o overlay.png
    """
    from depthmask.bundle import SHIPPED_BUNDLE
    from depthmask.pipeline import Pipeline
    from depthmask.serve.server import HttpServer, listen
    from depthmask.serve.service import Service

    if resolutions and len(resolutions) > 1:
        raise UsageError(f"--resolution must be one here, but got {len(resolutions)}")
    page = _web_folder(bundle or SHIPPED_BUNDLE, web)
    settings = ServeSettings(
        queue=queue,
        max_upload_bytes=round(max_upload_mib * MIB),
        max_pixels=round(max_megapixels * 1e6),
        read_timeout_s=read_timeout_s,
        drain_timeout_s=drain_timeout_s,
    )
    resolution = resolutions[0] if resolutions else None
    open_pipeline = partial(
        Pipeline.open, bundle, runtime, device, threads, resolution=resolution, spin=False
    )
    service = Service(open_pipeline, settings)
    with listen(host, port) as listener:
        _warn_of_others(listener.getsockname()[0])
        address = _address(host, listener.getsockname()[1])
        try:
            HttpServer(service, page, listener).run(partial(_announce, address, page))
        except InterruptedWorkError as error:
            if service.worker.is_alive:
                # Where an inference goes on, Python's own end would tear the runtime down under it: abort().
                atexit.register(os._exit, error.exit_code)
            raise


def _web_folder(bundle: Path, web: Path | None) -> Path | None:
    """The folder to serve at /; None where the bundle has none.

    Raises:
        InputError: the folder that was asked for has no page.
    """
    from depthmask.serve.web_folder import INDEX

    folder = web if web is not None else bundle / "web"
    if web is None and not folder.exists():
        return None
    if not (folder / INDEX).is_file():
        raise InputError(
            f"{folder} must be a web page made by `dmx export --to web`, but it has no {INDEX}"
        )
    return folder


def _warn_of_others(address: str) -> None:
    if not ipaddress.ip_address(address).is_loopback:
        _remark(
            f"warning: others can reach {address}, and the service has no login and no encryption. Try it"
            " behind a proxy (docs/service.md)"
        )


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _announce(address: str, page: Path | None, pipeline: Pipeline) -> None:
    click.echo(address)
    _remark(
        f"serving {pipeline.bundle.path} on {pipeline.runtime.name} {pipeline.runtime.device} at"
        f" {pipeline.resolution}" + (f", with the page {page}" if page else "")
    )


def _remark(text: str) -> None:
    messages.print(text, markup=False, soft_wrap=True)

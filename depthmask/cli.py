"""`dmx`: wires the commands. Each is a module of `depthmask.commands`, imported only when it is called.

To add a command: write `depthmask/commands/NAME.py` with a click command called `command`, and add a row
to `COMMANDS`.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from typing import Any, NoReturn

import click

from depthmask.errors import (
    CheckFailedError,
    DepthmaskError,
    InterruptedWorkError,
    OutputError,
    UnavailableError,
    UsageError,
)
from depthmask.version import __version__

COMMANDS = {
    "demo": "Run the whole path on the shipped photographs and write a report.",
    "models": "List the networks, or show one layer by layer.",
    "data": "Fetch material and compose data sets with exact masks and depths.",
    "train": "Train a chain, or go on with an unfinished training.",
    "evaluate": "Measure the accuracy of a checkpoint or bundle on a data set.",
    "import": "Turn a published .pth file into a checkpoint.",
    "export": "Export a chain to a verified bundle.",
    "verify": "Check a bundle's files and its agreement with PyTorch, on this machine.",
    "inspect": "Show what a bundle is, and what was rewritten in it.",
    "bench": "Measure latency and accuracy per resolution and runtime.",
    "compare": "Say what became faster or slower between two results of `bench`.",
    "run": "Run a bundle on photographs, videos or a camera.",
    "serve": "Answer requests over HTTP with a bundle, beside its web page.",
    "doctor": "Say what of this machine works, and how to mend the rest.",
}


# Which extra brings a package that a command needs.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_EXTRAS = {
    "cuda": "tensorrt",
    "matplotlib": "report",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxruntime": "cpu",
    "onnxscript": "export",
    "openvino": "openvino",
    "prometheus_client": "serve",
    "safetensors": "export",
    "starlette": "serve",
    "tensorboard": "train",
    "torch": "export",
    "uvicorn": "serve",
    "yaml": "train",
}


class _LazyGroup(click.Group):
    """Knows its commands' names and one-line helps, and imports a command when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"depthmask.commands.{cmd_name}_command")
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  (as click declares it)
        """Turn what is nobody's bug into an error of ours."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise InterruptedWorkError("interrupted") from interrupt
        except ModuleNotFoundError as missing:
            package = (missing.name or "").split(".")[0]
            extra = _EXTRAS.get(package)
            if extra is None:
                raise
            raise UnavailableError(
                f"this needs the package {package}, which is not installed. Try"
                f" `pip install 'depthmask[{extra}]'`"
            ) from missing
        except BrokenPipeError:
            # The reader of our output left (`dmx models | head`): there is nobody to tell. What Python
            # would still flush at exit goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None
        except OSError as error:
            if error.errno not in _FULL:
                raise
            # Of all that is written, only standard output is not an output with a name.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            name = error.filename or "standard output"
            raise OutputError(f"{name} cannot be written: {error.strerror}") from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: dmx export --fp16, then dmx run lite-224-fp16 --source 0",
)
@click.version_option(__version__, prog_name="dmx")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def dmx(debug: bool) -> None:
    """Bring a chain of a mask network and a depth network to the edge, verified."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run `dmx` and exit with the code that README.md's table promises."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments[:1]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name need not be text
            stream.reconfigure(errors="backslashreplace")
    try:
        dmx.main(arguments, prog_name="dmx", standalone_mode=False)
    except DepthmaskError as error:
        if debug:
            raise
        if isinstance(error, CheckFailedError):
            for line in error.details:
                click.echo(line, err=True)
        sys.exit(_report(str(error), error.exit_code))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(UsageError.exit_code)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f" Try `{context.command_path} --help`" if context else ""
        sys.exit(_report(error.format_message() + hint, UsageError.exit_code))
    sys.exit(0)


def _report(message: str, exit_code: int) -> int:
    one_line = " ".join(message.split())
    click.echo(f"error: {one_line}", err=True)
    return exit_code

"""How a benchmark that is a module of its own ends on an error: as `dmx` does, in one line."""

from __future__ import annotations

import sys

import click

from depthmask.errors import DepthmaskError


def run_script(command: click.Command, module: str) -> None:
    """Run it as `python -m depthmask.bench.MODULE`; our errors are one line and their exit code."""
    try:
        command(prog_name=f"python -m depthmask.bench.{module}")
    except DepthmaskError as problem:
        click.echo(f"error: {' '.join(str(problem).split())}", err=True)
        sys.exit(problem.exit_code)

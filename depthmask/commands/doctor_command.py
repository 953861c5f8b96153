"""`dmx doctor`."""

from __future__ import annotations

import click

from depthmask.commands.options import console, json_option, messages, print_json
from depthmask.errors import CheckFailedError

_COLOURS = {"ok": "green", "not there": "yellow", "broken": "red"}


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Look at this machine: what is there, what truly works, and how to mend what does not.

    Every runtime that is installed runs a small graph, in a process of its own. What is not there is
    no failure; what is broken ends with exit code 1.

    \b
    Example:
      dmx doctor --json
    """
    import msgspec
    from rich.markup import escape

    from depthmask.doctor import examine

    findings = []
    with messages.status("looking") as status:
        for finding in examine():
            findings.append(finding)
            status.update(f"looked at {finding.name}")
            if not as_json:
                colour = _COLOURS[finding.state]
                mend = f". Try: {escape(finding.mend)}" if finding.mend else ""
                console.print(
                    f"[{colour}]{finding.state:9}[/] {finding.name}: {escape(finding.detail)}{mend}",
                    soft_wrap=True,
                )
    broken = [finding.name for finding in findings if finding.state == "broken"]
    if as_json:
        print_json({"holds": not broken, "findings": msgspec.to_builtins(findings)})
    if broken:
        raise CheckFailedError(f"broken on this machine: {', '.join(broken)}")

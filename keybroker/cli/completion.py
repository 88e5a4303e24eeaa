"""``keybroker completion``: what a shell needs to complete commands and options; click's own scripts."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from keybroker.wire.problems import KeybrokerError, Problem


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print the script that completes commands and options in SHELL.

    \b
      keybroker completion bash > /etc/bash_completion.d/keybroker
      keybroker completion zsh > /usr/local/share/zsh/site-functions/_keybroker
      keybroker completion fish > ~/.config/fish/completions/keybroker.fish
    """
    from keybroker.cli.program import PROGRAM, program

    found = get_completion_class(shell)
    if found is None:
        raise KeybrokerError(Problem.USAGE, f"shell {shell}: click has no script for it")
    script = found(program, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE")
    # not source(): it runs the shell to see how old that is, and this may be for another machine
    click.echo(script.source_template % script.source_vars())

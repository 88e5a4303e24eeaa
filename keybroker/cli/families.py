"""A command with verbs below it, whose help shows the first sentence of each verb whole."""

from __future__ import annotations

from typing import Final

import click

_WHOLE: Final = 1000


class Family(click.Group):
    """A group; click by itself cuts a verb's sentence off where the line ends."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs; a long sentence goes on in the next line."""
        rows = []
        for name in self.list_commands(ctx):
            verb = self.get_command(ctx, name)
            if verb is not None and not verb.hidden:
                rows.append((name, verb.get_short_help_str(_WHOLE)))
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

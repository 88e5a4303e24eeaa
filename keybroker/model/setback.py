"""A database that was set back to an older backup: which volumes' hosts know more of them. Pure.

| a host reports | then |
|---|---|
| a volume that is not known here | it was made since |
| a header that names a higher key version than was ever minted here | a key is missing here |
| a record at a higher revision than the one here | something was done since: an order, a switch, a rotation |

Such a volume is **ahead**, and stays so until an operator says to go on with what is known here, or its key
is brought back. Nothing of it is destroyed meanwhile, nor is a new key minted: its number may be taken.
"""

from __future__ import annotations

from datetime import datetime

from keybroker.model.volume import Volume
from keybroker.wire.names import KeyVersion


def ahead(volume: Volume | None, named: KeyVersion | None, revision: int | None) -> str | None:
    """Say in what a host knows more of a volume than is known here; None where it does not.

    Args:
        volume: None where it is not known here.
        named: highest key version that the header on the disk names.
        revision: of the newest record that the host has seen.
    """
    if volume is None:
        return "the volume is not known here"
    newest = 0 if volume.keyring is None else volume.keyring.newest
    if named is not None and named > newest:
        return f"its header names key version {named}, and the newest here is {newest or 'none'}"
    if revision is not None and revision > volume.revision:
        return f"its host has seen revision {revision} of its record, which is at {volume.revision} here"
    return None


def held(
    volume: Volume,
    *,
    since: datetime | None,
    reported: datetime | None,
    has_hosts: bool,
    why_ahead: str | None,
    accepted: datetime | None,
) -> str | None:
    """Say why nothing of a volume may be destroyed or minted; None where it may.

    Args:
        since: when the database was set back; None where that is over, or never was.
        reported: when its host reported last.
        has_hosts: its add-on has a host that could report.
        why_ahead: why it was found to be ahead; None where it never was.
        accepted: when an operator said to go on with what is known here.
    """
    if why_ahead is not None and accepted is None:
        return why_ahead
    if since is None or (accepted is not None and accepted >= since):
        return None
    if volume.is_swap or volume.stage == "erased" or (volume.stage == "new" and not has_hosts):
        return None
    if reported is None or reported <= since:
        return "its host has not reported since the database was restored"
    return None

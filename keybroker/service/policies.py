"""An add-on's policy at release is changed; what it means is ``keybroker.terms``."""

from __future__ import annotations

from keybroker.policy import Peer
from keybroker.service.admission import Caller, perform
from keybroker.service.broker import Broker
from keybroker.service.directory import addon_named, lasting_addon
from keybroker.service.views import AddonView
from keybroker.store import Writing
from keybroker.terms import Change, loosens
from keybroker.wire.problems import KeybrokerError, Problem


def change(broker: Broker, peer: Peer, name: str, changes: Change) -> AddonView:
    """Change what is named of an add-on's policy; it holds from the next request on.

    Raises:
        KeybrokerError: as ``inventory.put_addon`` for the peer; UNKNOWN; NOT_ALLOWED for somebody who is no
            approver and would have boots need none, or a destruction pending for fewer days.
    """

    def work(writing: Writing, caller: Caller) -> AddonView:
        row = lasting_addon(writing, name)
        loosened = loosens(row.terms, changes, days=broker.settings.deletion_wait.days)
        if loosened is not None and "approver" not in caller.roles:
            raise KeybrokerError(
                Problem.NOT_ALLOWED,
                f"add-on {name}: {loosened}",
                hint="that takes the role approver, too; yours: keybroker operator show",
            )
        terms = row.terms.changed(changes)
        if terms != row.terms:
            writing.put_policy(row.name, terms, caller.now)
            before, after = row.terms.as_json(), terms.as_json()
            named = {key: value for key, value in after.items() if before[key] != value}
            writing.append(caller.about("done", addon=name, policy=named))
        return AddonView.of(addon_named(writing, name), writing.volumes(name), writing.hosts(name))

    return perform(broker, peer, "addon.policy", work)

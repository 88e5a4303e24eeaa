"""Who may do what: each verb's parties in one table, and who may give whom which role. Pure.

An operator has one role or several, which the broker keeps and looks up on every request.

| role | may |
|---|---|
| operator | change things: add-ons, volumes, hosts, operators; and look at them |
| approver | say yes to boots, and to what takes two people; have a key revealed, set the recovery key; look |
| auditor | look at everything, and alone at the audit trail; change nothing |
| metrics | read numbers, and nothing that names a volume's state or its owner |

Nobody gets more than they have, by any way round:

- A role is given or taken only by somebody with the role ``operator`` who has that very role (``beyond``).
  ``metrics`` may be given without having it: it is for machines, and gives no power.
- A new certificate for somebody else makes its holder that person. So it takes all of that person's roles,
  and it replaces the certificates from before: whoever is impersonated sees it at the next request.
- A certificate for oneself takes no role: it changes nothing about what one may do.
- Turning somebody away takes the role ``operator`` alone. It gives nobody anything, and must not wait for the
  one person with all roles when a laptop is stolen.
- The last one who can manage operators stays (``service.operators``). Whoever owns the installation on the
  broker's own machine has its CA's key, and so can make an operator anyway: ``keybroker operator recover``.

Whoever has both ``operator`` and ``approver`` can appoint a second approver, and so be two people. Where two
people are wanted, nobody has both: each operator's record says who added it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal

from keybroker.wire.names import Role

Verb = Literal[
    # a host's
    "unlock",
    "claim",
    "deposit",
    "header.read",
    "ready",
    "renew",
    "report",
    "stage",
    "promote",
    "backup",
    "retire",
    "announce",
    "finish",
    "switch",
    "erased",
    "adopt",
    # an operator's
    "addon.add",
    "addon.read",
    "addon.policy",
    "addon.rekey",
    "addon.delete",
    "addon.undelete",
    "addon.approve",
    "volume.add",
    "volume.read",
    "volume.rotate",
    "volume.order",
    "volume.cancel",
    "volume.reveal",
    "volume.delete",
    "volume.undelete",
    "volume.approve",
    "recovery.read",
    "recovery.check",
    "recovery.set",
    "recovery.import",
    "host.invite",
    "host.read",
    "host.revoke",
    "boot.read",
    "boot.approve",
    "boot.deny",
    "boot.clear",
    "boot.expect",
    "operator.add",
    "operator.read",
    "operator.roles",
    "operator.certify",
    "operator.revoke",
    "master.read",
    "master.rotate",
    "master.forget",
    "self.read",
    "self.renew",
    "audit.read",
    "metrics.read",
    # everybody's
    "describe",
]

Party = Literal["host"] | Role

_HOST: Final[frozenset[Party]] = frozenset({"host"})
_CHANGE: Final[frozenset[Party]] = frozenset({"operator"})
_APPROVE: Final[frozenset[Party]] = frozenset({"approver"})
_LOOK: Final[frozenset[Party]] = frozenset({"operator", "approver", "auditor"})
_AUDIT: Final[frozenset[Party]] = frozenset({"auditor"})
_MEASURE: Final[frozenset[Party]] = frozenset({"metrics"})
_ANY_ROLE: Final[frozenset[Party]] = frozenset({"operator", "approver", "auditor", "metrics"})

MAY: Final[Mapping[Verb, frozenset[Party]]] = {
    "unlock": _HOST,
    "claim": _HOST,
    "deposit": _HOST,
    "header.read": _HOST,
    "ready": _HOST,
    "renew": _HOST,
    "report": _HOST,
    "stage": _HOST,
    "promote": _HOST,
    "backup": _HOST,
    "retire": _HOST,
    "announce": _HOST,
    "finish": _HOST,
    "switch": _HOST,
    "erased": _HOST,
    "adopt": _HOST,
    "addon.add": _CHANGE,
    "addon.read": _LOOK,
    "addon.policy": _CHANGE,
    "addon.rekey": _CHANGE,
    "addon.delete": _CHANGE,
    "addon.undelete": _CHANGE | _APPROVE,
    "addon.approve": _APPROVE,
    "volume.add": _CHANGE,
    "volume.read": _LOOK,
    "volume.rotate": _CHANGE,
    "volume.order": _CHANGE,
    "volume.cancel": _CHANGE,
    "volume.reveal": _APPROVE,
    "volume.delete": _CHANGE,
    "volume.undelete": _CHANGE | _APPROVE,
    "volume.approve": _APPROVE,
    "recovery.read": _LOOK,
    "recovery.check": _LOOK,
    "recovery.set": _APPROVE,
    "recovery.import": _APPROVE,
    "host.invite": _CHANGE,
    "host.read": _LOOK,
    "host.revoke": _CHANGE,
    "boot.read": _LOOK,
    "boot.approve": _APPROVE,
    "boot.deny": _APPROVE,
    "boot.clear": _APPROVE,
    "boot.expect": _APPROVE,
    "operator.add": _CHANGE,
    "operator.read": _LOOK,
    "operator.roles": _CHANGE,
    "operator.certify": _CHANGE,
    "operator.revoke": _CHANGE,
    "master.read": _LOOK,
    "master.rotate": _CHANGE,
    "master.forget": _CHANGE,
    "self.read": _ANY_ROLE,
    "self.renew": _ANY_ROLE,
    "audit.read": _AUDIT,
    "metrics.read": _MEASURE,
    "describe": _HOST | _ANY_ROLE,
}
"""Every verb and the parties that may do it: one of an operator's roles is enough."""

MANAGES: Final[Role] = "operator"
"""The role whose holders can add operators and turn them away."""

FIRST: Final[frozenset[Role]] = frozenset({"operator", "approver", "auditor"})
"""The roles of an installation's first operator, who would otherwise have nobody to appoint the others."""

_GIVEN_FREELY: Final[frozenset[Role]] = frozenset({"metrics"})


def beyond(own: Iterable[Role], touched: Iterable[Role]) -> tuple[Role, ...]:
    """Return which of the roles ``touched`` somebody with ``own`` may neither give nor take, sorted."""
    return tuple(sorted(frozenset(touched) - frozenset(own) - _GIVEN_FREELY))

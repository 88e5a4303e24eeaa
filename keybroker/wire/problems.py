"""Everything that can go wrong, in one table: its name on the wire, its HTTP and its exit status.

``Problem`` says what kind of thing went wrong; ``KeybrokerError`` carries one occurrence. Whether it is
worth trying again is data (``temporary``), so that the agent's loop has no list of its own.

Exit statuses follow sysexits(3) where it has a word: 75 is the only one that a unit should retry.
"""

from __future__ import annotations

from enum import Enum


class Problem(Enum):
    """One row a kind of failure: slug (stable, RFC 9457 ``type``), title, HTTP status, exit status."""

    # the caller's fault
    MALFORMED = ("malformed", "the request or input cannot be read", 400, 65)
    USAGE = ("usage", "the command line is wrong", 400, 64)
    NOT_ALLOWED = ("not-allowed", "this identity may not do that", 403, 77)
    NO_IDENTITY = ("no-identity", "the certificate names nobody this broker knows", 403, 77)
    REVOKED = ("revoked", "this identity is revoked", 403, 78)
    LOCK = ("lock", "this identity is revoked, and what it has open is to be closed", 403, 78)
    WRONG_ADDRESS = ("wrong-address", "this identity may not ask from there", 403, 77)
    DISABLED = ("disabled", "the add-on is disabled", 403, 78)
    BOOT_DENIED = ("boot-denied", "an approver has said no to this boot", 403, 77)
    TOKEN_REFUSED = ("token-refused", "the enrolment token is unknown, used or expired", 403, 77)
    UNKNOWN = ("unknown", "there is no such thing", 404, 66)
    METHOD = ("method", "this path does not take that method", 405, 64)
    DELETED = ("deleted", "it is to be destroyed, or was destroyed", 410, 81)
    CONFLICT = ("conflict", "the record is not in the state that the request takes for granted", 409, 73)
    EXISTS = ("exists", "it exists already, and differs", 409, 73)
    PENDING = ("pending", "somebody has to say yes first", 423, 75)
    SECOND_BOOT = ("second-boot", "another boot is up in its place", 423, 75)
    TOO_LARGE = ("too-large", "the request is too large", 413, 65)
    # what a volume may be refused for; these travel inside an unlock reply
    HEADER_REFUSED = ("header-refused", "the LUKS2 header is not what it must be", 409, 79)
    WRONG_DEVICE = ("wrong-device", "the device is not the one that the volume lives on", 409, 79)
    NOT_BLANK = ("not-blank", "the device is not blank, so it is not formatted", 409, 79)
    LOCKED_OUT = ("locked-out", "the broker's current key opens nothing", 409, 80)
    FOREIGN_KEYSLOTS = ("foreign-keyslots", "keyslots or tokens of others would be lost", 409, 79)
    IN_USE = ("in-use", "somebody is using it", 409, 73)
    MISMATCH = ("mismatch", "two disks that must hold the same do not", 409, 79)
    NO_DEVICE = ("no-device", "the device did not appear", 404, 66)
    # ours, or the world's
    INTERNAL = ("internal", "the program met something it did not expect", 500, 70)
    CORRUPT = ("corrupt", "stored data does not pass its checks", 500, 70)
    UNAVAILABLE = ("unavailable", "the broker cannot answer now", 503, 75)
    UNREACHABLE = ("unreachable", "no broker could be reached", 503, 75)
    BUSY = ("busy", "too many requests", 429, 75)
    UNTRUSTED_BROKER = ("untrusted-broker", "the broker's certificate is not from our CA", 502, 76)
    CERTIFICATE = ("certificate", "this machine's certificate is missing, expired or not yet valid", 403, 77)
    TOO_SLOW = ("too-slow", "a program that was started did not end in time", 503, 75)
    TOOL_FAILED = ("tool-failed", "a program that was started failed", 500, 71)
    CONFIGURATION = ("configuration", "the configuration is wrong", 500, 78)

    def __init__(self, slug: str, title: str, http_status: int, exit_status: int) -> None:
        self.slug = slug
        self.title = title
        self.http_status = http_status
        self.exit_status = exit_status

    @property
    def temporary(self) -> bool:
        """Say whether trying again later can help."""
        return self.exit_status == 75

    @classmethod
    def named(cls, slug: str) -> Problem:
        """Return the problem of that slug, or INTERNAL for one that a newer broker made up."""
        return next((problem for problem in cls if problem.slug == slug), cls.INTERNAL)


class KeybrokerError(Exception):
    """One thing that went wrong, in words that an operator can act on.

    Args:
        problem: its row in the table.
        detail: ``thing: what is wrong``; lower case, no full stop, never key material.
        hint: what to do about it, preferably a command.
        retry_after: seconds that the peer asked to wait, where it did.
        identity: URI of whom a certificate is waited for, where whoever asks may not know that.
    """

    def __init__(
        self,
        problem: Problem,
        detail: str,
        *,
        hint: str | None = None,
        retry_after: float | None = None,
        identity: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.problem = problem
        self.detail = detail
        self.hint = hint
        self.retry_after = retry_after
        self.identity = identity

    def lines(self, program: str) -> list[str]:
        """Return what is printed: ``program: thing: what is wrong``, and a hint on its own line."""
        said = [f"{program}: {self.detail}"]
        if self.hint:
            said.append(f"{program}: hint: {self.hint}")
        return said


def exit_statuses() -> dict[int, list[str]]:
    """Return what each exit status says, by status: the titles of its problems."""
    told: dict[int, list[str]] = {}
    for problem in sorted(Problem, key=lambda one: one.exit_status):
        told.setdefault(problem.exit_status, []).append(problem.title)
    return told

"""A real PKCS#11 token of a test's own: SoftHSM2, with its directory below a temporary one."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MODULE: Final = "/usr/lib/softhsm/libsofthsm2.so"
PIN: Final = "4711-4711"
LABEL: Final = "keybroker"


@dataclass(frozen=True, slots=True)
class SoftToken:
    """One token, and the file with its PIN.

    Attributes:
        configuration: what $SOFTHSM2_CONF has to name in whatever process uses the module.
    """

    directory: Path
    configuration: Path
    pin: Path

    def uri(self, label: str, *, token: str = LABEL, module: str = MODULE, pin: Path | None = None) -> str:
        return f"pkcs11:token={token};object={label}?module-path={module}&pin-source=file:{pin or self.pin}"

    @property
    def environment(self) -> dict[str, str]:
        return {"SOFTHSM2_CONF": str(self.configuration)}

    def take_away(self) -> None:
        self._away.mkdir(exist_ok=True)
        for each in self.directory.iterdir():
            each.rename(self._away / each.name)

    def bring_back(self) -> None:
        for each in self._away.iterdir():
            each.rename(self.directory / each.name)

    @property
    def _away(self) -> Path:
        return self.directory.with_name(f"{self.directory.name}.away")

    def tool(self, *arguments: str) -> str:
        """Run pkcs11-tool(1), a client that is not ours, logged in."""
        own = ("--module", MODULE, "--token-label", LABEL, "--login", "--pin", PIN)
        done = subprocess.run(
            ["pkcs11-tool", *own, *arguments],
            env={"PATH": "/usr/bin:/bin"} | self.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return done.stdout

    def import_key(
        self, file: Path, label: str, *, kind: str = "AES:32", private: str = "--sensitive"
    ) -> None:
        """Put a key of a file's bytes into the token."""
        self.tool(
            *("--write-object", str(file), "--type", "secrkey", "--key-type", kind),
            *("--label", label, private, "--private"),
        )


def make_token(root: Path) -> SoftToken:
    """Make a token below ``root``, which is private, without a key in it."""
    directory, configuration, pin = root / "tokens", root / "softhsm2.conf", root / "token.pin"
    directory.mkdir()
    configuration.write_text(f"directories.tokendir = {directory}\nobjectstore.backend = file\n")
    pin.write_text(f"{PIN}\n")
    pin.chmod(0o400)
    made = SoftToken(directory, configuration, pin)
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", LABEL, "--so-pin", "0" * 8, "--pin", PIN],
        env={"PATH": "/usr/bin:/bin"} | made.environment,
        capture_output=True,
        timeout=30,
        check=True,
    )
    return made

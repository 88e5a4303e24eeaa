"""Volumes as other tools make them, made by those very tools, and the other way into each.

    made = STRANGERS["clevis"](path, tang.port)
    made.passphrase     what an operator would hand over to adopt it
    made.opens()        whether the way that its tool knows still opens it

vaultlocker and Azure's extension are not packaged; what they make is one cryptsetup call, and it is made here
as they make it (vaultlocker, dmcrypt.py; azure-linux-extensions, DiskUtil.py).
"""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SIZE: Final = 24 << 20
QUICK: Final = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
TYPED: Final = b"correct horse battery staple"

_PATH: Final = {**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


@dataclass(frozen=True)
class Stranger:
    """One volume.

    Attributes:
        passphrase: that an operator knows.
        other: fetches what opens it, or a copy of it, as its tool would, for each try anew.
    """

    path: Path
    passphrase: bytes
    other: Callable[[Path], bytes]

    def opens(self) -> bool:
        """Say whether the way that its tool knows opens it."""
        return takes(self.path, self.other(self.path))


Maker = Callable[[Path, int], Stranger]
"""Is given where to make it, and the port of a tang server."""


def cryptsetup(*words: str | Path, given: bytes = b"") -> bytes:
    """Run cryptsetup, with ``given`` on standard input."""
    return _run("cryptsetup", *words, given=given)


def takes(path: Path, passphrase: bytes, *, keyslot: int | None = None) -> bool:
    """Say whether a passphrase opens a volume, without any token's help."""
    slot = () if keyslot is None else ("--key-slot", str(keyslot))
    words = ("open", "--test-passphrase", "--disable-external-tokens", "--token-type", "none", *slot)
    done = subprocess.run(
        ["cryptsetup", *words, "--key-file", "-", path],
        input=passphrase, capture_output=True, env=_PATH, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1, 2), done.stderr
    return done.returncode == 0


def _run(*words: str | Path, given: bytes = b"", **environment: str) -> bytes:
    done = subprocess.run(
        [str(word) for word in words],
        input=given,
        capture_output=True,
        env={**_PATH, **environment},
        check=False,
    )
    assert done.returncode == 0, (words, done.returncode, done.stderr)
    return done.stdout


def blank(path: Path) -> Path:
    """Make an empty disk."""
    with path.open("wb") as disk:
        disk.truncate(SIZE)
    return path


def _formatted(path: Path, passphrase: bytes, *options: str) -> Path:
    blank(path)
    cryptsetup("luksFormat", "-q", "--type", "luks2", "--key-file", "-", *options, path, given=passphrase)
    return path


def by_hand(path: Path, _: int, *, memory_kib: int = 64 << 10) -> Stranger:
    """Make what ``cryptsetup luksFormat`` makes; on a machine with memory, argon2id goes over 1 GiB."""
    return Stranger(_formatted(path, TYPED, *_argon2(memory_kib)), TYPED, lambda _: TYPED)


def _argon2(memory_kib: int) -> tuple[str, ...]:
    iterations = ("--pbkdf-force-iterations", "4", "--pbkdf-parallel", "4")
    return ("--pbkdf", "argon2id", "--pbkdf-memory", str(memory_kib), *iterations)


def vaultlocker(path: Path, _: int) -> Stranger:
    """Make what vaultlocker makes: a key of 4096 random bytes, in base64, and a UUID of its own."""
    key = base64.b64encode(os.urandom(4096))
    uuid = ("--uuid", "6f4d3b52-7f0a-4a0e-9b6a-3d8f2c1e5a70")
    return Stranger(_formatted(path, key, *uuid, *_argon2(64 << 10)), key, lambda _: key)


def sha512(path: Path, _: int) -> Stranger:
    """Make what ``--hash sha512`` makes."""
    key = os.urandom(64)
    return Stranger(
        _formatted(path, key, "--hash", "sha512", "--key-size", "512", *QUICK), key, lambda _: key
    )


def essiv(path: Path, _: int) -> Stranger:
    """Make what was the default before 2013."""
    old = ("--cipher", "aes-cbc-essiv:sha256", "--key-size", "256")
    return Stranger(_formatted(path, TYPED, *old, *QUICK), TYPED, lambda _: TYPED)


def azure(path: Path, _: int) -> Stranger:
    """Make what Azure Disk Encryption makes: its token has fields of null, and names no keyslot."""
    key = base64.b64encode(os.urandom(128))
    _formatted(path, key, *QUICK)
    token: dict[str, object] = {
        "version": "1.0", "type": "Azure_Disk_Encryption", "keyslots": [],
        "KekVaultResourceId": "/subscriptions/0/resourceGroups/g/providers/Microsoft.KeyVault/vaults/v",
        "KeyEncryptionKeyURL": "https://v.vault.azure.net/keys/k/0",
        "KeyVaultResourceId": "/subscriptions/0/resourceGroups/g/providers/Microsoft.KeyVault/vaults/v",
        "KeyVaultURL": "https://v.vault.azure.net/", "AttestationURL": None,
        "PassphraseName": "LUKSPasswordProtector", "Passphrase": base64.b64encode(bytes(256)).decode(),
    }  # fmt: skip
    cryptsetup("token", "import", "--token-id", "5", path, given=json.dumps(token).encode())
    return Stranger(path, key, lambda _: key)


def recovery(path: Path, _: int) -> Stranger:
    """Enrol a recovery key with systemd-cryptenroll."""
    _formatted(path, TYPED, *QUICK)
    key = _run("systemd-cryptenroll", "--recovery-key", path, PASSWORD=TYPED.decode()).strip()
    assert re.fullmatch(rb"([a-z]{8}-){7}[a-z]{8}", key)
    return Stranger(path, TYPED, lambda _: key)


def clevis(path: Path, port: int) -> Stranger:
    """Bind a volume to a tang server with clevis."""
    _formatted(path, TYPED, *QUICK)
    return bind(path, port, TYPED)


def bind(path: Path, port: int, passphrase: bytes) -> Stranger:
    """Bind a volume that is there already, by a passphrase that opens it."""
    file = path.with_suffix(".passphrase")
    file.write_bytes(passphrase)
    before = _slots(path)
    tang = json.dumps({"url": f"http://127.0.0.1:{port}"})
    _run("clevis", "luks", "bind", "-y", "-f", "-k", file, "-d", path, "tang", tang)
    file.unlink()
    (slot,) = _slots(path) - before
    return Stranger(path, passphrase, lambda disk: _run("clevis", "luks", "pass", "-d", disk, "-s", slot))


def _slots(path: Path) -> set[str]:
    return set(json.loads(cryptsetup("luksDump", "--dump-json-metadata", path))["keyslots"])


def converted(path: Path, _: int) -> Stranger:
    """Make a LUKS1 volume and have cryptsetup convert it."""
    luks1(path)
    cryptsetup("convert", "-q", "--type", "luks2", path)
    return Stranger(path, TYPED, lambda _: TYPED)


def luks1(path: Path) -> Path:
    """Make a LUKS1 volume, as everybody did before 2019."""
    blank(path)
    cryptsetup("luksFormat", "-q", "--type", "luks1", *QUICK, "--key-file", "-", path, given=TYPED)
    return path


STRANGERS: Final[dict[str, Maker]] = {
    "by hand": by_hand,
    "vaultlocker": vaultlocker,
    "sha512": sha512,
    "essiv": essiv,
    "azure": azure,
    "recovery": recovery,
    "clevis": clevis,
    "converted": converted,
}
CIPHERS: Final = {"essiv": "aes-cbc-essiv:sha256"}
"""Of those whose cipher is not aes-xts-plain64."""


@contextmanager
def tang(directory: Path) -> Iterator[int]:
    """Serve tang on a port of this machine's own, as inetd would; give the port."""
    keys = directory / "tang"
    keys.mkdir()
    _run("/usr/libexec/tangd-keygen", keys)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=(listener, keys), daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket, keys: Path) -> None:
    while True:
        try:
            caller, _ = listener.accept()
        except OSError:  # the listener is closed
            return
        with caller:
            ends = caller.fileno()
            subprocess.run(
                ["/usr/libexec/tangd", keys],
                stdin=ends, stdout=ends, stderr=subprocess.DEVNULL, check=False, timeout=20,
            )  # fmt: skip

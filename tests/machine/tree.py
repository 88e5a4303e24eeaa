"""The file tree of a Debian virtual machine, from Debian's own packages; made once, kept in the cache.

    base = build(print)     # mmdebstrap: half a minute, and only when PACKAGES or the recipe changed

It is what an operator's machine would be, trimmed in three ways, each for the seconds it saves in software
emulation: no documentation, no timers or consoles, and the journal copied to the serial line, so that a
machine that never answers still tells why.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.machine import cache

RECIPE: Final = "1"
"""Changes with anything below that changes the tree, so that an old one is not used again."""

SUITE: Final = "bookworm"

PACKAGES: Final = (
    "systemd", "systemd-sysv", "udev", "kmod", "dbus", "mount", "util-linux", "iproute2", "procps",
    "cryptsetup-bin", "dmsetup", "e2fsprogs", "xfsprogs",
    "python3", "python3-venv",
    "openssh-server", "postgresql-15", "curl",
    "linux-image-cloud-amd64",
)  # fmt: skip

LEFT_OUT: Final = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*", "/usr/share/info/*")

MASKED: Final = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "e2scrub_reap.service", "fstrim.timer", "systemd-pstore.service", "getty@tty1.service",
    "serial-getty@ttyS0.service", "systemd-timesyncd.service", "apparmor.service",
    "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "console-setup.service",
    "keyboard-setup.service", "systemd-binfmt.service", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
    "modprobe@drm.service", "modprobe@efi_pstore.service", "modprobe@fuse.service",
    "systemd-firstboot.service", "ldconfig.service", "systemd-hwdb-update.service",
)  # fmt: skip

NETWORK: Final = """\
[Match]
Driver=virtio_net
[Network]
Address=10.0.2.15/24
Gateway=10.0.2.2
LinkLocalAddressing=no
IPv6AcceptRA=no
"""

SSHD: Final = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
UseDNS no
"""

JOURNALD: Final = """\
[Journal]
Storage=persistent
ForwardToConsole=yes
MaxLevelConsole=info
RateLimitIntervalSec=0
"""


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree that is whole.

    Attributes:
        root: its directory.
        kernel: the kernel in it.
        login: private key that may log in as root.
        known_hosts: the machine's host key, for ssh(1).
        key: names this very recipe.
    """

    root: Path
    kernel: Path
    login: Path
    known_hosts: Path
    key: str


def key() -> str:
    """Return the name of what this recipe makes."""
    parts = (RECIPE, SUITE, *PACKAGES, *LEFT_OUT, *MASKED, NETWORK, SSHD, JOURNALD)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def build(say: Callable[[str], None]) -> Tree:
    """Return the tree, made if it is not in the cache.

    Args:
        say: is told what takes long.

    Raises:
        subprocess.CalledProcessError: a package could not be had.
    """
    place = cache.directory() / f"tree-{key()}"
    with cache.lock("tree"):
        if not (place / "whole").exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            say("building the VM tree from Debian packages")
            _debootstrap(place / "root")
            _keys(place)
            _configure(place / "root", place)
            (place / "whole").touch()
    return Tree(
        root=place / "root",
        kernel=next((place / "root/boot").glob("vmlinuz-*")),
        login=place / "login",
        known_hosts=place / "known_hosts",
        key=key(),
    )


def _sources() -> str:
    """Return the Debian sources that this machine's own apt uses, whatever form they are written in."""
    form = "$(LABEL)|deb [signed-by={}] $(REPO_URI) $(RELEASE) $(COMPONENT)"
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", form.format("/usr/share/keyrings/debian-archive-keyring.gpg"),
         "Created-By: Packages"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    lines = [line.partition("|") for line in listed.splitlines()]
    found = sorted({source for label, _, source in lines if label in {"Debian", "Debian-Security"}})
    assert any(f" {SUITE} " in source for source in found), f"apt knows no {SUITE}: run apt-get update"
    return "\n".join(found) + "\n"


def _debootstrap(root: Path) -> None:
    subprocess.run(
        [
            "mmdebstrap", "--quiet", "--variant=minbase", "--mode=root",
            '--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"',
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
            # the demo makes its cluster on the encrypted volume; none may stand in the way
            '--setup-hook=mkdir -p "$1/etc/postgresql-common"',
            '--setup-hook=echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.conf"',
            # the kernel brings what it needs to mount its root: no initramfs is made
            f"--include={','.join(PACKAGES)}",
            SUITE, str(root), "-",
        ],
        input=_sources(), text=True, check=True,
    )  # fmt: skip


def _keys(place: Path) -> None:
    for name in ("login", "host"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(place / name)], check=True
        )
    (place / "known_hosts").write_text("machine " + (place / "host.pub").read_text())


def _configure(root: Path, place: Path) -> None:
    def write(path: str, text: str, mode: int = 0o644) -> None:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.touch(mode=mode)
        file.write_text(text)

    for old in (root / "etc/ssh").glob("ssh_host_*"):
        old.unlink()
    write("etc/ssh/ssh_host_ed25519_key", (place / "host").read_text(), 0o600)
    write("etc/ssh/sshd_config.d/machine.conf", SSHD)
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    write("root/.ssh/authorized_keys", (place / "login.pub").read_text(), 0o600)
    write("etc/hostname", "machine\n")
    write("etc/hosts", "127.0.0.1 localhost machine\n")
    # a machine id that is there: with none, systemd takes each boot for the first one and presets all units
    write("etc/machine-id", "6b65796272616b65726d616368696e65\n")
    write("etc/fstab", "/dev/nvme0n1 / ext4 defaults 0 0\n")
    write("etc/systemd/network/10-machine.network", NETWORK)
    write("etc/systemd/journald.conf.d/machine.conf", JOURNALD)
    (root / "var/log/journal").mkdir(exist_ok=True)
    for unit in MASKED:
        (root / "etc/systemd/system" / unit).unlink(missing_ok=True)
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    subprocess.run(
        ["systemctl", f"--root={root}", "--quiet", "enable", "systemd-networkd.service", "ssh.service",
         "systemd-networkd-wait-online.service"],
        check=True,
    )  # fmt: skip

#!/bin/bash
# The init of the User-Mode Linux that tests/kernel/uml.py starts: mounts, modules, one command, power off.
# Its root is the host's own (hostfs): what is written outside /run, /tmp, /dev and /mnt changes the host.
# KB_RUN, a directory on the host, comes through the kernel's command line; it holds the file "command",
# whose lines are the command's arguments. The command's exit status goes into its file "status".
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
export PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null # already there where the kernel mounts it itself
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
checkout=$(readlink -f "${BASH_SOURCE[0]%/*}/../..")
mount -t tmpfs -o mode=755 tmp /run
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs -o mode=755 tmp /mnt
for place in "$checkout" "$KB_RUN"; do # a checkout under /tmp would be hidden by our own
    case $place in
    /run/* | /tmp/* | /mnt/*) mkdir -p "$place" && mount -t hostfs none "$place" -o "$place" ;;
    esac
done
mkdir -p /run/cryptsetup /run/lock # LUKS2 locks
ip link set lo up
for module in dm-mod dm-crypt dm-mirror dm-flakey dm-log-writes loop xts algif_skcipher ext4 xfs; do
    modprobe "$module" 2>/dev/null || grep -qs "/${module//-/[-_]}[.]ko" "/lib/modules/$(uname -r)/modules.builtin" ||
        echo "init: no module $module"
done
mapfile -t command <"$KB_RUN/command"
cd "${command[0]}" || exit 1
"${command[@]:1}" </dev/null
echo $? >"$KB_RUN/status"
sync
echo o >/proc/sysrq-trigger # poweroff(8) would ask a systemd that is not there
sleep 10

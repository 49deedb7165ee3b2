# The last step of `cleave image build debian:12`: makes a machine's root of what mmdebstrap installed,
# and an ext4 file system of that. mmdebstrap runs it as root, or as root of a user namespace, with the
# new root as $1. The environment has SOURCES (sources.list), APT_CONF (may be empty), PASSWORD (root's,
# for the console), HOST (the default name) and DISK (the file to fill, a descriptor's path).
set -eu
root=$1
PATH=$PATH:/usr/sbin:/sbin

printf '%s' "$SOURCES" >"$root/etc/apt/sources.list"
rm -f "$root"/etc/apt/sources.list.d/*
[ -z "$APT_CONF" ] || printf '%s' "$APT_CONF" >"$root/etc/apt/apt.conf.d/90host"
echo "$HOST" >"$root/etc/hostname"
printf '127.0.0.1\tlocalhost\n127.0.1.1\t%s\n::1\t\tlocalhost ip6-localhost ip6-loopback\n' "$HOST" >"$root/etc/hosts"
echo '/dev/vda / ext4 errors=remount-ro 0 1' >"$root/etc/fstab"
echo 'LANG=C.UTF-8' >"$root/etc/default/locale"
printf 'root:%s\n' "$PASSWORD" | chroot "$root" chpasswd

# Any Ethernet card gets its address by DHCP. Nothing waits for that: a machine may have no card.
printf '[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n' >"$root/etc/systemd/network/80-dhcp.network"
chroot "$root" systemctl --quiet enable systemd-networkd.service systemd-resolved.service
chroot "$root" systemctl --quiet disable systemd-networkd-wait-online.service
rm -f "$root/etc/resolv.conf"
ln -s ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"

# No two machines share a host key or a machine-id: each makes its own when it first boots.
rm -f "$root"/etc/ssh/ssh_host_*_key* "$root/var/lib/dbus/machine-id"
: >"$root/etc/machine-id"
cat >"$root/etc/systemd/system/ssh-host-key.service" <<'UNIT'
[Unit]
Description=Make this machine's ssh host key
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
Before=ssh.service

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key

[Install]
WantedBy=multi-user.target
UNIT
chroot "$root" systemctl --quiet enable ssh-host-key.service

# What the installation left: mmdebstrap itself would remove it only after this.
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb \
	"$root"/etc/apt/apt.conf.d/*mmdebstrap "$root"/var/log/apt/* "$root"/var/log/dpkg.log \
	"$root"/var/log/alternatives.log "$root"/tmp/* "$root"/usr/sbin/policy-rc.d
mkdir -p "$root/var/lib/apt/lists/partial"
[ ! -e "$root/sbin/start-stop-daemon.REAL" ] ||
	mv "$root/sbin/start-stop-daemon.REAL" "$root/sbin/start-stop-daemon"

# Without what is mounted in it: /proc, /sys, /dev.
echo 'I: making the file system...' >&2
tree=$(mktemp -d)
mount --bind "$root" "$tree"
status=0
mke2fs -q -F -t ext4 -L root -m 1 -E lazy_itable_init=0,lazy_journal_init=0 -d "$tree" "$DISK" || status=$?
umount "$tree"
rmdir "$tree"
exit $status

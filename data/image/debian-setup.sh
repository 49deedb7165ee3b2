# Makes a Debian tree ("$1") an image: network by DHCP, a console login, and what a first boot does. Run by
# mmdebstrap as a customize hook, with sh -eu.
root=$1

cat >"$root/etc/fstab" <<'END'
/dev/vda / ext4 rw,discard 0 1
END
echo localhost >"$root/etc/hostname"
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost\n' >"$root/etc/hosts"

mkdir -p "$root/etc/systemd/network"
cat >"$root/etc/systemd/network/80-dhcp.network" <<'END'
[Match]
Type=ether

[Network]
DHCP=yes

[DHCPv4]
UseMTU=yes
END

# Each instance has host keys and a machine id of its own: made at its first boot.
rm -f "$root"/etc/ssh/ssh_host_*
echo 'HostKey /etc/ssh/ssh_host_ed25519_key' >"$root/etc/ssh/sshd_config.d/cleave.conf"
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id"

# The seed reaches the initial RAM disk as a folder; this script carries it over to the system.
mkdir -p "$root/etc/initramfs-tools/scripts/init-bottom"
cat >"$root/etc/initramfs-tools/scripts/init-bottom/cleave-seed" <<'END'
#!/bin/sh
[ "$1" = prereqs ] && exit 0
[ -d /cleave-seed ] && cp -r /cleave-seed /run/cleave-seed
exit 0
END
chmod 755 "$root/etc/initramfs-tools/scripts/init-bottom/cleave-seed"

mkdir -p "$root/usr/lib/cleave"
cat >"$root/usr/lib/cleave/seed" <<'END'
#!/bin/sh
# First boot of an instance: NoCloud's meta-data and user-data, from the folder that cleave gave or from a
# disk labelled cidata. What of #cloud-config is understood is in Cleave's docs/images.md.
set -u
dir=/run/cleave-seed
done=/var/lib/cleave/seeded
mkdir -p /var/lib/cleave
[ -e /etc/ssh/ssh_host_ed25519_key ] || ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
if [ ! -d $dir ]; then
	for label in cidata CIDATA; do
		[ -e /dev/disk/by-label/$label ] || continue
		mkdir -p /run/cleave-cidata $dir
		mount -o ro /dev/disk/by-label/$label /run/cleave-cidata || continue
		cp /run/cleave-cidata/meta-data /run/cleave-cidata/user-data $dir/ 2>/dev/null
		umount /run/cleave-cidata
		break
	done
fi
[ -d $dir ] || exit 0
# A top-level "key: value" of YAML, without quotes.
value() { sed -n "s/^$1: *//p" "$2" 2>/dev/null | head -n 1 | sed "s/^[\"']//;s/[\"'] *\$//"; }
# The items of a top-level list of plain strings.
items() {
	awk -v key="$1:" '
		/^[^ #-]/ { on = index($0, key) == 1; next }
		on && /^ *- / { sub(/^ *- */, ""); gsub(/^["'\'']|["'\'']$/, ""); print }' "$2" 2>/dev/null
}
id=$(value instance-id $dir/meta-data)
[ "$(cat $done 2>/dev/null)" != "$id" ] || [ ! -e $done ] || exit 0
host=$(value local-hostname $dir/meta-data)
data=$dir/user-data
case $(head -n 1 $data 2>/dev/null) in
'#cloud-config'*)
	name=$(value hostname $data)
	[ -z "$name" ] || host=$name
	mkdir -p -m 700 /root/.ssh
	items ssh_authorized_keys $data >>/root/.ssh/authorized_keys
	;;
esac
if [ -n "$host" ]; then
	echo "$host" >/etc/hostname
	hostname "$host"
	sed -i "1s/.*/127.0.0.1 localhost $host/" /etc/hosts
fi
if [ -e $dir/authorized_keys ]; then
	mkdir -p -m 700 /root/.ssh
	cat $dir/authorized_keys >>/root/.ssh/authorized_keys
fi
chmod 600 /root/.ssh/authorized_keys 2>/dev/null
case $(head -n 1 $data 2>/dev/null) in
'#!'*) chmod 700 $data && $data ;;
'#cloud-config'*)
	items runcmd $data >/run/cleave-runcmd
	sh /run/cleave-runcmd
	;;
esac
echo "$id" >$done
exit 0
END
chmod 755 "$root/usr/lib/cleave/seed"

cat >"$root/etc/systemd/system/cleave-seed.service" <<'END'
[Unit]
Description=First boot of a Cleave instance
After=local-fs.target
Before=ssh.service systemd-user-sessions.service

[Service]
Type=oneshot
ExecStart=/usr/lib/cleave/seed
StandardOutput=journal+console
RemainAfterExit=yes

[Install]
WantedBy=multi-user.target
END

chroot "$root" systemctl -q enable cleave-seed.service systemd-networkd.service systemd-resolved.service \
	ssh.service serial-getty@ttyS0.service
chroot "$root" systemctl -q mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
	e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-networkd-wait-online.service
# Who is at the console has the host's user rights over the machine anyway.
mkdir -p "$root/etc/systemd/system/serial-getty@ttyS0.service.d"
cat >"$root/etc/systemd/system/serial-getty@ttyS0.service.d/login.conf" <<'END'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --keep-baud 115200,57600,38400,9600 - $TERM
END
echo 'COMPRESS=lz4' >"$root/etc/initramfs-tools/conf.d/cleave"
chroot "$root" update-initramfs -u -k all
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*

#!/bin/bash
# prerequisites.sh PACKAGE... installs those of the named Debian packages that are missing.
#
# Does nothing, and needs neither root nor network, when all are there. As another user than root it uses sudo where
# that asks no password, and otherwise says what to install.
set -euo pipefail

missing=()
for package in "$@"; do
	status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
	[ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
	if ! sudo -n true 2>/dev/null; then
		echo "prerequisites.sh: missing Debian packages: install them as root with: apt-get install ${missing[*]}" >&2
		exit 1
	fi
	as_root=(sudo -n)
fi

exec 3>&1 1>&2
echo "installing ${missing[*]}"
# One caller at a time: apt-get refuses to run beside another, and waits for the lock only where it is told to.
apt() {
	"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 "$@"
}
apt update || echo "prerequisites.sh: apt-get update had errors; going on with what is known" >&2

# Installing a server package of Debian creates and starts a cluster, and enables it for every boot, unless told not to.
for package in "${missing[@]}"; do
	case $package in
	postgresql*)
		apt install --no-install-recommends postgresql-common >/dev/null
		"${as_root[@]}" sed -i -E 's/^#?[[:space:]]*create_main_cluster[[:space:]]*=.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
		"${as_root[@]}" grep -q '^create_main_cluster = false' /etc/postgresql-common/createcluster.conf ||
			echo 'create_main_cluster = false' | "${as_root[@]}" tee -a /etc/postgresql-common/createcluster.conf >/dev/null
		break
		;;
	esac
done
apt install --no-install-recommends "${missing[@]}" >/dev/null

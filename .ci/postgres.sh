#!/bin/bash
# postgres.sh MAJOR|any... makes PostgreSQL servers and client programs available, contrib extensions included, and
# prints for each argument one line: the directory that holds its initdb, postgres, pg_dump and so on.
#
# A version in /usr/lib/postgresql/MAJOR/bin (Debian's place) is used as it is. Otherwise, in this order: the cache of
# an earlier run; the machine's own distribution, through apt-get and without creating or starting a cluster, when
# root; else the packages of the Debian release that has the version (15 bookworm, 17 trixie, 18 sid) are fetched with
# their dependencies down to the C library, through apt with a state of its own, checked by apt against Debian's keys,
# unpacked into the cache and made to run in place by patchelf. The last way needs no root and touches nothing outside
# the cache. "any" stands for the newest version that is there already, or else what the distribution offers.
#
# May be run by several callers at once: one installs, the others wait and find it done. Messages go to stderr.
#
#   HOURVAULT_CACHE             where to keep it (see cache-dir.sh)
#   HOURVAULT_POSTGRES_PRIVATE  1: leave the distribution alone, always use packages unpacked into the cache
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=$("$here/cache-dir.sh")
mkdir -p "$cache/postgresql"
chmod 0755 "$cache/postgresql"

fail() {
	echo "postgres.sh: $*" >&2
	exit 1
}

say() {
	echo "postgres.sh: $*" >&2
}

complete() {
	[ -x "$1/postgres" ] && [ -x "$1/initdb" ] && [ -x "$1/pg_dump" ] && [ -x "$1/pg_restore" ]
}

# find_bin MAJOR prints where the version is, and fails if it is nowhere.
find_bin() {
	local dir
	for dir in "/usr/lib/postgresql/$1/bin" "$cache/postgresql/$1/usr/lib/postgresql/$1/bin"; do
		if complete "$dir"; then
			echo "$dir"
			return 0
		fi
	done
	return 1
}

release_of() {
	case $1 in
	15) echo bookworm ;;
	17) echo trixie ;;
	18) echo sid ;;
	*) fail "PostgreSQL $1 is not one of 15, 17, 18, the versions hourvault is tested with" ;;
	esac
}

# mirror prints the Debian mirror this machine's apt is set up with.
mirror() {
	local found
	found=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
		grep -v '^[[:space:]]*#' | grep -oE '[a-z+]+://[^[:space:]]+/debian/?([[:space:]]|$)' | head -1 | tr -d '[:space:]' || true)
	found=${found%/}
	echo "${found:-http://deb.debian.org/debian}"
}

# distribution_offers MAJOR: can the machine's own apt install it, with what it knows now?
distribution_offers() {
	grep -qE '^ *Candidate: [0-9]' <<<"$(apt-cache policy "postgresql-$1" 2>/dev/null)"
}

can_install() {
	[ -z "${HOURVAULT_POSTGRES_PRIVATE:-}" ] && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }
}

refresh_lists() {
	local as_root=()
	[ "$(id -u)" = 0 ] || as_root=(sudo -n)
	"${as_root[@]}" apt-get -qq -o Acquire::Retries=3 update >&2 || say "apt-get update had errors; going on with what is known"
}

install_from_distribution() {
	can_install || return 1
	if ! distribution_offers "$1"; then
		# A fresh container knows no package at all before its first update.
		[ -z "$(apt-cache policy libc6 2>/dev/null | grep -E '^ +[0-9]+ [a-z]+://' || true)" ] || return 1
		refresh_lists
		distribution_offers "$1" || return 1
	fi
	say "installing PostgreSQL $1 from the distribution (no cluster is created)"
	"$here/prerequisites.sh" "postgresql-$1" >&2
}

# unpack MAJOR ROOT fetches and unpacks PostgreSQL MAJOR and all it depends on into ROOT, and makes it run there.
unpack() {
	local major=$1 root=$2 release archive state architecture triplet
	release=$(release_of "$major")
	command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
		fail "no PostgreSQL $major here and no apt-get to fetch it with: install it, or name its programs in HOURVAULT_TEST_PG${major}_BIN"
	architecture=$(dpkg --print-architecture)
	archive=$(mirror)
	local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
	if [ ! -e $keyring ]; then
		"$here/prerequisites.sh" debian-archive-keyring
	fi

	# An apt of its own: nothing is installed as far as it knows, so it names every dependency. From the machine's apt it
	# takes how to reach a mirror (proxies, certificates, retries), and nothing else. Packages must be signed by Debian, but
	# the archive's index may be past its date: a mirror of sid that lags by weeks, or a frozen one, gives an older minor
	# version, which is good enough for a throw-away server in a directory of its own.
	state=$root.apt
	mkdir -p "$state"/{lists/partial,archives/partial,parts,preferences}
	: >"$state/status"
	echo "deb [arch=$architecture signed-by=$keyring] $archive $release main" >"$state/sources.list"
	{
		env -u APT_CONFIG apt-config dump | grep -E '^Acquire::' || true
		cat <<-END
			Dir::State "$state";
			Dir::State::Lists "$state/lists";
			Dir::State::status "$state/status";
			Dir::Cache "$state";
			Dir::Cache::Archives "$state/archives";
			Dir::Etc::Parts "$state/parts";
			Dir::Etc::Main "/dev/null";
			Dir::Etc::SourceList "$state/sources.list";
			Dir::Etc::SourceParts "$state/parts";
			Dir::Etc::Preferences "/dev/null";
			Dir::Etc::PreferencesParts "$state/preferences";
			APT::Architecture "$architecture";
			APT::Architectures { "$architecture"; };
			APT::Install-Recommends "false";
			APT::Sandbox::User "$(id -un)";
			Acquire::Languages "none";
			Acquire::Retries "5";
			Acquire::Check-Valid-Until "false";
			Debug::NoLocking "true";
		END
	} >"$state/apt.conf"

	say "fetching PostgreSQL $major from Debian $release at $archive"
	local attempt done=
	for attempt in 1 2 3; do
		# A mirror of sid changes several times a day: when a package vanished between update and download, begin again.
		if APT_CONFIG="$state/apt.conf" apt-get -qq update >&2 &&
			APT_CONFIG="$state/apt.conf" apt-get -qq -y --download-only install \
				"postgresql-$major" patchelf libc-bin base-files >&2; then
			done=1
			break
		fi
		say "attempt $attempt failed"
	done
	[ -n "$done" ] || fail "cannot fetch PostgreSQL $major from $archive ($release): apt-get's messages are above"

	# Debian keeps everything below /usr; packages of older releases still name /lib and /lib64.
	mkdir -p "$root/usr/lib" "$root/usr/lib64" "$root/usr/bin" "$root/usr/sbin"
	ln -s usr/lib "$root/lib"
	ln -s usr/lib64 "$root/lib64"
	ln -s usr/bin "$root/bin"
	ln -s usr/sbin "$root/sbin"
	local package
	for package in "$state"/archives/*.deb; do
		dpkg-deb --fsys-tarfile "$package" |
			tar -x -C "$root" --keep-directory-symlink --no-same-owner --exclude './usr/share/doc' --exclude './usr/share/man' \
				--exclude './usr/share/locale' --exclude './dev' --exclude './var' --exclude './etc'
	done
	rm -rf "$state"

	triplet=$(basename "$(dirname "$(find "$root/usr/lib" -maxdepth 2 -name libc.so.6 -print -quit)")")
	local libraries=$root/usr/lib/$triplet
	local loader
	loader=$(find "$root/usr/lib64" "$root/usr/lib" -maxdepth 1 -name 'ld-linux-*' -print -quit)
	[ -n "$loader" ] || fail "the packages of $release hold no dynamic loader"
	echo "$libraries" >"$root/libraries"
	echo "$loader" >"$root/loader"
	chmod -R u+rwX,go+rX "$root"
}

# relocate ROOT FINAL MAJOR points the programs of ROOT at the loader and libraries of FINAL, the place ROOT is renamed to.
relocate() {
	local root=$1 final=$2 major=$3 loader libraries program
	loader=$(<"$root/loader")
	libraries=$(<"$root/libraries")
	for program in "$root/usr/lib/postgresql/$major/bin"/*; do
		[ -f "$program" ] && [ ! -L "$program" ] && [ "$(head -c 4 "$program")" = $'\x7fELF' ] || continue
		"$loader" --library-path "$libraries" "$root/usr/bin/patchelf" --set-interpreter "$final${loader#"$root"}" \
			--force-rpath --set-rpath "$final${libraries#"$root"}" "$program"
	done
	rm -f "$root/loader" "$root/libraries"
}

install_private() {
	local major=$1 final=$cache/postgresql/$1 root
	root=$(mktemp -d "$cache/postgresql/.$major.XXXXXX")
	# shellcheck disable=SC2064 # the directory of now
	trap "rm -rf '$root' '$root.apt'" EXIT
	chmod 0755 "$root"
	unpack "$major" "$root"
	relocate "$root" "$final" "$major"
	rm -rf "$final"
	mv -T "$root" "$final"
	trap - EXIT
	"$final/usr/lib/postgresql/$major/bin/postgres" --version >&2 ||
		{ rm -rf "$final"; fail "PostgreSQL $major was fetched but does not run here"; }
}

# The servers take time zones from the machine, as Debian builds them.
need_timezones() {
	[ -e /usr/share/zoneinfo/UTC ] || "$here/prerequisites.sh" tzdata
}

install() {
	local major=$1
	release_of "$major" >/dev/null
	need_timezones
	find_bin "$major" && return
	(
		flock 9
		find_bin "$major" >/dev/null && exit
		# Not joined by ||, which would turn errexit off inside install_private.
		if ! install_from_distribution "$major"; then
			install_private "$major"
		fi
	) 9>"$cache/postgresql/lock" 1>&2
	find_bin "$major" || fail "PostgreSQL $major is still missing after its installation"
}

[ $# -gt 0 ] || fail "usage: postgres.sh MAJOR|any..."
for wanted in "$@"; do
	if [ "$wanted" != any ]; then
		install "$wanted"
		continue
	fi
	for major in 18 17 15; do
		find_bin "$major" && continue 2
	done
	if can_install; then
		refresh_lists
		for major in 18 17 15; do
			if distribution_offers "$major"; then
				install "$major"
				continue 2
			fi
		done
	fi
	install 17
done

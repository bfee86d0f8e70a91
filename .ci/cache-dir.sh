#!/bin/bash
# cache-dir.sh prints the directory in which the scripts of .ci keep what they install: servers for the tests and tools.
#
# It is $HOURVAULT_CACHE if that is set; /var/cache/hourvault for root, because test servers run as an unprivileged
# user who cannot look into /root; else ~/.cache/hourvault; and /var/tmp/hourvault-<uid> where there is no usable
# home. The directory is created. internal/testenv finds the same directory by the same rule (CacheDir).
set -euo pipefail

fail() {
	echo "cache-dir.sh: $*" >&2
	exit 1
}

# usable DIR: can it be created and written to, and is it our own?
usable() {
	mkdir -p "$1" 2>/dev/null && [ -w "$1" ] && [ -O "$1" ]
}

uid=$(id -u)
if [ -n "${HOURVAULT_CACHE:-}" ]; then
	case $HOURVAULT_CACHE in
	/*) dir=$HOURVAULT_CACHE ;;
	*) fail "HOURVAULT_CACHE must be an absolute path, not $HOURVAULT_CACHE" ;;
	esac
	usable "$dir" || fail "cannot write to $dir: set HOURVAULT_CACHE to a directory of your own"
elif [ "$uid" = 0 ]; then
	dir=/var/cache/hourvault
	usable "$dir" || fail "cannot write to $dir: set HOURVAULT_CACHE to a directory that can be written"
elif [ -n "${HOME:-}" ] && usable "$HOME/.cache/hourvault"; then
	dir=$HOME/.cache/hourvault
else
	dir=/var/tmp/hourvault-$uid
	usable "$dir" || fail "cannot write to $dir: set HOURVAULT_CACHE to a directory of your own"
fi

# Servers that root starts run as another user: every directory on the way must let that user through.
if [ "$uid" = 0 ]; then
	at=$(realpath "$dir")
	while [ "$at" != / ]; do
		mode=$(stat -c %a "$at")
		if [ $((8#$mode & 1)) = 0 ]; then
			[ "$at" = "$(realpath "$dir")" ] || fail "$at is closed to other users (mode $mode), but test servers run unprivileged: set HOURVAULT_CACHE to a directory they can reach, such as /var/cache/hourvault"
			chmod 0755 "$at"
		fi
		at=$(dirname "$at")
	done
fi
echo "$dir"

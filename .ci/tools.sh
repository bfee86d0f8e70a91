#!/bin/bash
# tools.sh NAME... builds the named tools and prints, for each, the path of its program.
#
# A tool is a folder of .ci/tools: a Go module of its own that pins one program by a tool directive, so that what
# the tools need neither shows in the product's go.mod nor meets the needs of another tool. Built programs are kept in
# the cache under a hash of the module files and the Go version; bin/NAME in the cache is a link to the last one asked
# for, where the test environment finds the S3 servers.
#
# May be run by several callers at once. Messages go to stderr.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=$("$here/cache-dir.sh")
mkdir -p "$cache/tools" "$cache/bin"
chmod 0755 "$cache/tools" "$cache/bin"

fail() {
	echo "tools.sh: $*" >&2
	exit 1
}

[ $# -gt 0 ] || fail "usage: tools.sh NAME... with NAME one of: $(cd "$here/tools" && echo *)"

for name in "$@"; do
	module=$here/tools/$name
	[ -f "$module/go.mod" ] || fail "$name is not one of: $(cd "$here/tools" && echo *)"
	package=$(awk '$1 == "tool" && NF == 2 { print $2 }' "$module/go.mod")
	[ -n "$package" ] || fail "$module/go.mod has no tool line"
	# GOFLAGS of the caller, such as -race or -mod, are meant for the product.
	version=$(cd "$module" && { cat go.mod go.sum; GOFLAGS='' go env GOVERSION GOOS GOARCH; } | sha256sum | cut -c1-16)
	program=$cache/tools/$name-$version/$name
	(
		flock 9
		if [ ! -x "$program" ]; then
			echo "tools.sh: building $package" >&2
			building=$(mktemp -d "$cache/tools/.$name.XXXXXX")
			trap 'rm -rf "$building"' EXIT
			chmod 0755 "$building"
			(cd "$module" && GOFLAGS='' GOWORK=off CGO_ENABLED=0 go build -mod=readonly -trimpath -ldflags='-s -w' -o "$building/$name" "$package") >&2
			chmod 0755 "$building/$name"
			rm -rf "${program%/*}"
			mv -T "$building" "${program%/*}"
			trap - EXIT
		fi
		ln -sfn "../tools/${program#"$cache/tools/"}" "$cache/bin/.$name.new"
		mv -T "$cache/bin/.$name.new" "$cache/bin/$name"
	) 9>"$cache/tools/lock-$name"
	echo "$program"
done

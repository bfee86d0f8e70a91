#!/bin/bash
# depguard-test.sh proves that the depguard rules of .golangci.yml state the layers: in a copy of the module it writes
# one file per forbidden import and expects the linter to refuse each, and one per allowed import and expects silence.
#
# A rule whose glob matches nothing, or an import path that was mistyped, would otherwise look like clean code.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
linter=$("$root/.ci/tools.sh" golangci-lint)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
project=github.com/hourvault/hourvault

cd "$copy"
cp "$root/.golangci.yml" .
# Only imports matter, so every package is an empty stand-in and nothing has to compile against the real ones.
printf 'module %s\n\ngo 1.26.0\n' "$project" >go.mod
packages=(backup restore scheduler crypto cmd/hourvault internal/repository internal/objectstore internal/postgres
	internal/catalog internal/config internal/console internal/timeexpr internal/testenv internal/objectstore/storetest
	internal/serverprocess internal/postgres/throwaway)
for package in "${packages[@]}"; do
	mkdir -p "$package"
	printf '// Package %s stands in for the real one.\npackage %s\n' "${package##*/}" "${package##*/}" >"$package/stand_in.go"
done
for module in github.com/jackc/pgx/v5 github.com/aws/aws-sdk-go-v2; do
	mkdir -p "outside/$module"
	printf 'module %s\n\ngo 1.26.0\n' "$module" >"outside/$module/go.mod"
	printf '// Package outside stands in for the real one.\npackage outside\n' >"outside/$module/stand_in.go"
	printf 'require %s %s\nreplace %s => ./outside/%s\n' "$module" "$([[ $module == */v5 ]] && echo v5.0.0 || echo v0.0.0)" "$module" "$module" >>go.mod
done

number=0
# place FROM SUFFIX IMPORT writes a file that ends in SUFFIX with the import, and names it in $placed. It lies in a package
# of its own below FROM, where the same rules hold: two packages may not import each other, not even to be linted.
place() {
	number=$((number + 1))
	local path=$3
	case $path in /*) path=${path#/} ;; *) path=$project/$path ;; esac
	placed=$1/case$number/import$2
	mkdir -p "$1/case$number"
	printf 'package case%s\n\nimport _ "%s"\n' "$number" "$path" >"$placed"
}

declare -A forbidden=() allowed=()
forbid() {
	place "$@"
	forbidden[$placed]="$1 imports $3"
}
allow() {
	place "$@"
	allowed[$placed]="$1 imports $3"
}

for above in internal/repository internal/objectstore internal/postgres internal/catalog internal/config backup restore scheduler; do
	forbid crypto .go $above
done
for above in internal/repository crypto internal/postgres internal/catalog internal/config backup restore scheduler; do
	forbid internal/objectstore .go $above
	[ $above = internal/catalog ] || forbid internal/catalog .go $above
	[ $above = internal/catalog ] || [ $above = internal/postgres ] || forbid internal/postgres .go $above
	for leaf in internal/config internal/console internal/timeexpr internal/testenv; do
		[ $above = internal/config ] || forbid $leaf .go $above
	done
done
for above in internal/postgres internal/config internal/console backup restore scheduler; do
	forbid internal/repository .go $above
done
for above in scheduler internal/config internal/console; do
	forbid backup .go $above
	forbid restore .go $above
done
forbid backup .go restore
forbid restore .go backup
for leaf in internal/config internal/console internal/timeexpr internal/testenv; do
	for other in internal/config internal/console internal/timeexpr; do
		[ $leaf = $other ] || [ "$leaf $other" = "internal/config internal/timeexpr" ] || forbid $leaf .go $other
	done
done
forbid scheduler .go internal/config
forbid scheduler .go internal/console
for outside in internal/repository backup restore scheduler crypto internal/postgres cmd/hourvault; do
	forbid $outside .go /github.com/aws/aws-sdk-go-v2
	forbid $outside .go internal/testenv
done
for outside in internal/repository internal/objectstore internal/catalog crypto scheduler cmd/hourvault; do
	forbid $outside .go /github.com/jackc/pgx/v5
done
for above in internal/catalog internal/postgres internal/config internal/testenv backup; do
	forbid internal/serverprocess .go $above
done
forbid crypto .go /math/rand
forbid backup .go /log
forbid backup .go /testing
forbid internal/repository .go internal/objectstore/storetest

allow cmd/hourvault .go internal/config
allow cmd/hourvault .go internal/console
allow internal/config .go internal/timeexpr
allow internal/objectstore/storetest .go /testing
allow internal/objectstore _test.go internal/objectstore/storetest
allow cmd/hourvault .go scheduler
allow cmd/hourvault .go backup
allow scheduler .go restore
allow scheduler .go backup
allow backup .go internal/repository
allow backup .go internal/postgres
allow backup .go /github.com/jackc/pgx/v5
allow internal/bench .go /github.com/jackc/pgx/v5
allow restore .go internal/repository
allow restore _test.go backup
allow restore _test.go internal/testenv
allow internal/repository .go crypto
allow internal/repository .go internal/objectstore
allow internal/repository .go internal/catalog
allow internal/repository _test.go internal/testenv
allow internal/postgres .go internal/catalog
allow internal/postgres .go /github.com/jackc/pgx/v5
allow internal/objectstore .go /github.com/aws/aws-sdk-go-v2
allow internal/objectstore _test.go internal/testenv
allow internal/postgres/throwaway .go internal/serverprocess
allow internal/testenv .go internal/postgres/throwaway
allow internal/testenv .go internal/serverprocess
allow internal/testenv .go /github.com/jackc/pgx/v5

report=$(GOFLAGS=-mod=mod GOPROXY=off "$linter" run --default=none --enable=depguard --output.text.path=stdout --show-stats=false ./... 2>&1 || true)
failed=0
for file in "${!forbidden[@]}"; do
	grep -q "^$file:.*(depguard)" <<<"$report" || { echo "depguard lets pass: ${forbidden[$file]}"; failed=1; }
done
for file in "${!allowed[@]}"; do
	! grep -q "^$file:.*(depguard)" <<<"$report" || { echo "depguard refuses: ${allowed[$file]}"; failed=1; }
done
if [ $failed = 1 ]; then
	echo "the linter said:"
	head -30 <<<"$report"
	exit 1
fi
echo "depguard refuses ${#forbidden[@]} forbidden imports and takes ${#allowed[@]} allowed ones"

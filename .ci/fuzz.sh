#!/bin/bash
# fuzz.sh runs fuzz targets one after the other, each for TIME (2m by default), and says how many inputs each has tried. It
# fails at the end when any failed; the input that did it is then in the package's testdata/fuzz, to be committed with the
# mend.
#
#	.ci/fuzz.sh              every target of the module, 2 minutes each
#	.ci/fuzz.sh 10s          every target, 10 seconds each
#	.ci/fuzz.sh 2s 3         every third target, beginning with another one for each commit: what is left out now has its
#	                         turn with one of the next commits
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
time=${1:-2m}
share=${2:-1}

# "package target", sorted; a target that cannot be found must not pass for one that was run.
mapfile -t targets < <(git ls-files --cached --others --exclude-standard -- '*_test.go' |
	xargs grep -Ho '^func Fuzz[A-Za-z0-9_]*' | sed -E 's|^(.*)/[^/]*:func (.*)$|./\1 \2|' | LC_ALL=C sort -u)
if [ ${#targets[@]} -eq 0 ]; then
	echo "no fuzz targets found" >&2
	exit 1
fi
turn=0
if [ "$share" -gt 1 ]; then
	turn=$((16#$(git rev-parse HEAD | cut -c1-7) % share))
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Interesting inputs are kept from run to run, so that a short run goes on where the last one ended.
cache=$(.ci/cache-dir.sh)/fuzz
failed=()
ran=0
for i in "${!targets[@]}"; do
	[ $((i % share)) -eq "$turn" ] || continue
	read -r package target <<<"${targets[i]}"
	binary=$work/${package//\//_}.test
	if [ ! -e "$binary" ] && ! go test -c -fuzz="^$target\$" -o "$binary" "$package"; then
		failed+=("$package $target: does not build")
		continue
	fi
	mkdir -p "$cache/$package"
	ran=$((ran + 1))
	# Minimizing an input that only covers something new would take a minute of each: targets with goroutines of their own
	# do not cover the same twice. One worker: what a target allocates is measured for the whole process.
	passed=yes
	(cd "$root/$package" && "$binary" -test.run='^$' -test.fuzz="^$target\$" -test.fuzztime="$time" -test.fuzzminimizetime=20x \
		-test.parallel=1 -test.fuzzcachedir="$cache/$package") >"$work/output" 2>&1 || passed=
	# On a busy machine Go's fuzzer can take the end of its own time for a failure (go.dev/issue/75804, mended in Go 1.27). A finding names its
	# input, or a line of the test.
	if [ -z "$passed" ] && grep -qx '    context deadline exceeded' "$work/output" && ! grep -qE 'Failing input|_test\.go:|panic|fatal error' "$work/output"; then
		passed=yes
	fi
	if [ -n "$passed" ]; then
		printf '%-24s %-28s %s\n' "$package" "$target" "$(grep -o 'execs: .*' "$work/output" | tail -1 || echo 'fewer than could be counted')"
	else
		failed+=("$package $target")
		printf '%-24s %-28s FAILED\n' "$package" "$target"
		cat "$work/output"
	fi
done
if [ ${#failed[@]} -gt 0 ]; then
	printf 'FAILED: %s\n' "${failed[@]}"
	exit 1
fi
echo "$ran fuzz targets of ${#targets[@]}, $time each: passed"

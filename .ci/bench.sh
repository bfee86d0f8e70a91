#!/bin/bash
# bench.sh [FLAG...] installs what the benchmark compares, from Debian, builds hourvault and the benchmark, and runs it
# with the flags given: make bench BENCHFLAGS='-help' lists them.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
.ci/prerequisites.sh make age pgbackrest rclone restic zstd

bins=()
majors=(15 17 18)
mapfile -t found < <(.ci/postgres.sh "${majors[@]}")
for i in "${!majors[@]}"; do
	bins+=(-bin "${majors[$i]}=${found[$i]}")
done
mapfile -t servers < <(.ci/tools.sh minio versitygw)

make --no-print-directory build >&2
CGO_ENABLED=0 go build -trimpath -o bin/hourvault-bench ./internal/bench
exec bin/hourvault-bench "${bins[@]}" -server "minio=${servers[0]}" -server "versitygw=${servers[1]}" -hourvault bin/hourvault "$@"

#!/usr/bin/env bash
# Runs every fuzz target of the project, one after the other, for the time given (default 30s), and stops at the first failure.
set -euo pipefail
cd "$(dirname "$0")/.."

fuzztime=${1:-30s}
found=0
while IFS=: read -r file target; do
	found=$((found + 1))
	echo "fuzz $target in ./$(dirname "$file")"
	go test "./$(dirname "$file")" -run '^$' -fuzz "^$target\$" -fuzztime "$fuzztime" -fuzzminimizetime 10x
done < <(git grep --untracked -oE '^func Fuzz[A-Za-z0-9_]*' -- '*_test.go' | sed 's/:func /:/')

if [ "$found" = 0 ]; then
	echo "no fuzz target found" >&2
	exit 1
fi

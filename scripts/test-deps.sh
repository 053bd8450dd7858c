#!/usr/bin/env bash
# Installs what the tests, the linter or the benchmarks need and this machine lacks: scripts/test-deps.sh test|lint|bench.
# It does nothing, and says nothing, when everything is there. Go tools go to .tools/ and npm packages to .tools/npm, which git
# ignores; the rest comes from Debian's packages. A part that cannot be installed is named, and the test that needs it fails.
set -euo pipefail
cd "$(dirname "$0")/.."

golangci_lint=v2.15.0
versitygw=v1.8.0
codex="0.149.1 0.169.0" # releases of the agent; services/llmproxy/codextest names them too

# have reports whether a command is on the PATH.
have() { command -v "$1" >/dev/null 2>&1; }

# go_tool installs PACKAGE@VERSION as .tools/NAME, once per version.
go_tool() {
	local name=$1 package=$2 version=$3
	[ "$(cat ".tools/$name.version" 2>/dev/null)" = "$version" ] && [ -x ".tools/$name" ] && return
	echo "installing $name $version into .tools" >&2
	mkdir -p .tools
	GOBIN="$PWD/.tools" go install "$package@$version"
	echo "$version" >".tools/$name.version" # last, so that an interrupted install is done again
}

# nats_server builds .tools/nats-server from the version that go.mod names, once per version.
nats_server() {
	local version
	version=$(go list -m -f '{{.Version}}' github.com/nats-io/nats-server/v2)
	[ "$(cat .tools/nats-server.version 2>/dev/null)" = "$version" ] && [ -x .tools/nats-server ] && return
	echo "building nats-server $version into .tools" >&2
	mkdir -p .tools
	go build -o .tools/nats-server github.com/nats-io/nats-server/v2
	echo "$version" >.tools/nats-server.version
}

# debian installs PACKAGE when COMMAND is missing.
debian() {
	local command=$1 package=$2
	have "$command" && return
	if ! have apt-get || [ "$(id -u)" != 0 ]; then
		echo "missing: $command (Debian's package $package); install it as root" >&2
		return
	fi
	echo "installing $package" >&2
	local log
	log=$(mktemp)
	if [ -z "${apt_updated:-}" ]; then
		apt-get -qq update >"$log" 2>&1 || true # an old list may do
		apt_updated=1
	fi
	if ! DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "$package" >>"$log" 2>&1; then
		cat "$log" >&2
		echo "missing: $package could not be installed" >&2
	fi
	rm -f "$log"
}

# npm_package installs NAME@VERSION into .tools/npm, once per version. With a third word NAME is an alias for what that says, so that several versions of one
# package lie side by side.
npm_package() {
	local name=$1 version=$2 what=${3:-$1@$2}
	[ "$what" = "$name@$version" ] || what="$name@npm:$what"
	[ "$(cat ".tools/npm/$name.version" 2>/dev/null)" = "$version" ] && [ -d ".tools/npm/node_modules/$name" ] && return
	echo "installing $name $version into .tools/npm" >&2
	mkdir -p .tools/npm
	[ -f .tools/npm/package.json ] || echo '{"private":true}' >.tools/npm/package.json
	local log
	log=$(mktemp)
	if npm install --prefix .tools/npm --no-fund --no-audit --loglevel=error --save-exact "$what" >"$log" 2>&1; then
		echo "$version" >".tools/npm/$name.version" # last, so that an interrupted install is done again
	else
		cat "$log" >&2
		echo "missing: $name could not be installed" >&2
	fi
	rm -f "$log"
}

# codex_releases installs the agent's own programs, each as .tools/npm/node_modules/codex-VERSION. They lie in packages of their own for each platform,
# and need neither node nor the package that chooses among them.
codex_releases() {
	local cpu version
	case $(uname -m) in
	aarch64 | arm64) cpu=arm64 ;;
	*) cpu=x64 ;;
	esac
	for version in $codex; do
		npm_package "codex-$version" "$version" "@openai/codex@$version-linux-$cpu"
	done
}

case "${1:-test}" in
test)
	debian git git
	debian zip zip # archives of ordinary tools, for the intake's tests
	debian unzip unzip
	debian zstd zstd
	debian npm npm
	nats_server # the clusters of the chaos test
	npm_package fauxqs 1.9.2 # the SQS queue of the dispatch tests
	npm_package cognito-local 5.3.0 # the user pools of the sign-in tests
	codex_releases # the agent that talks to the LLM proxy
	go_tool versitygw github.com/versity/versitygw/cmd/versitygw "$versitygw" # the S3 server of the file storage tests
	debian dockerd docker.io # our image is built and run
	debian iptables iptables # dockerd asks for it, though it is told to leave it alone
	debian chromium chromium # the API's documentation page is tested in a browser
	compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || debian postgres postgresql # the read models' tests; Debian keeps the server's programs off the PATH
	;;
lint)
	go_tool golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint "$golangci_lint"
	;;
bench)
	debian npm npm
	codex_releases # its own proxy is what ours is measured beside
	go_tool versitygw github.com/versity/versitygw/cmd/versitygw "$versitygw" # uploads to S3
	debian unzip unzip # what unpacking is measured against
	debian tar tar
	debian zip zip
	debian zstd zstd
	# Debian keeps the server's programs off the PATH.
	compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || debian postgres postgresql # what queues on the log are measured beside
	;;
*)
	echo "usage: scripts/test-deps.sh test|lint|bench" >&2
	exit 2
	;;
esac

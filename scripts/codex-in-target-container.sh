#!/usr/bin/env bash
# Runs Codex in a Docker container that sees the source to be audited, the LLM proxy, and nothing else of this machine. It stands where a plain `codex`
# could stand; the engine calls it as one (VEGA_V16_CODEX_BIN).
#
#   codex-in-target-container.sh exec ARGUMENTS… -   as `codex exec ARGUMENTS… -`: the prompt on standard input, Codex's output, Codex's exit code
#   codex-in-target-container.sh --version           checks Docker and the image; prints codex's version and "vega container runner 1"
#   codex-in-target-container.sh --remove            removes the containers of VEGA_CODEX_RUN, or all of VEGA_CODEX_FOLDER; prints how many there were
#
# exec reads from its environment
#   VEGA_V16_CODEX_DOCKER_IMAGE   the image (default vega-codex-runner:latest, which `make codex-image` builds)
#   CODEX_HOME                    a folder whose files, config.toml among them, Codex finds in its own home: they are copied, the folder is not mounted
#   VEGA_RUN_KEY                  the key that config.toml's env_key names
#   VEGA_CODEX_SOURCE             the folder to be audited, in the container /source, which cannot be written to; Codex is started in an empty folder, not there
#   VEGA_CODEX_SOCKET             the unix socket of the engine's relay to the LLM proxy; the user that the container runs as must be able to connect to it
#   VEGA_CODEX_PORT               where config.toml's base_url says that the LLM proxy is: that port of 127.0.0.1 leads to the socket
#   VEGA_CODEX_RUN                what this run is called; the container is vega-codex-RUN
#   VEGA_CODEX_SCAN, VEGA_CODEX_FOLDER                            the scan and the worker's folder, for labels
#   VEGA_CODEX_MEMORY, VEGA_CODEX_PIDS, VEGA_CODEX_CPUS           limits (default 2g, 256, 1)
#   VEGA_CODEX_TIMEOUT_SECONDS    until it is interrupted (default 3600)
#   VEGA_CODEX_HOST_HOME          the home in which docker looks for its configuration (default HOME); DOCKER_HOST and its like are docker's own
#
# Arguments that are CODEX_HOME or VEGA_CODEX_SOURCE, or lie in there, are given to Codex as the container's /codex and /source.
#
# What it says itself is one sentence on standard error: exit 1 when something is missing or refuses, 2 when it was called wrongly. Docker's own exit codes are
# 125 to 127. Ended by the time limit it exits with 124.
#
# Where the secrets go: the key, the files of CODEX_HOME and the prompt travel to the container's standard input and nowhere else, so that neither the process
# list, nor `docker inspect`, nor a file of the machine has them. There they are read by cmd/vega-codex, which says how.
#
# Ends: an interrupt reaches Codex through docker, and the container is gone with it. When this script is killed outright, the container ends as soon as the
# relay behind the socket does, or closes the lifeline that the container holds. When it is killed between docker's creating the container and starting it,
# a container is left that never ran: --remove finds it by its labels.
#
# The Docker engine must run on this machine: the source and the socket are mounted by their paths.
set -euo pipefail

runner=1 # the version of what this script and cmd/vega-codex agree on

# fail says one sentence and gives up.
fail() {
	printf 'codex-in-target-container: %s\n' "$1" >&2
	exit "${2:-1}"
}

usage() { fail "$1; usage: codex-in-target-container.sh exec ARGUMENTS… - | --version | --remove" 2; }

# one_line makes one line of what a program said.
one_line() { tr -s '[:space:]' ' ' <<<"$1" | sed 's/^ //; s/ $//'; }

# need_docker makes sure that there is a docker command, and gives it the user's configuration: HOME may be Codex's.
need_docker() {
	export HOME="${VEGA_CODEX_HOST_HOME:-${HOME:-/}}"
	command -v docker >/dev/null 2>&1 || fail "there is no docker command in PATH: install Docker, or set VEGA_V16_CODEX_BIN=codex to run Codex without a container"
}

# isolation is what holds for every container: no network, no capability, no way to gain one, nothing that can be written but memory, and bounds for the rest.
# The proxy settings of the user's docker configuration, which may hold a password, would otherwise come into the container's environment.
isolation=(
	--rm --init --pull never --log-driver none
	--network none --read-only --cap-drop ALL --security-opt no-new-privileges
	--pids-limit "${VEGA_CODEX_PIDS:-256}" --ulimit core=0:0
	--memory "${VEGA_CODEX_MEMORY:-2g}" --memory-swap "${VEGA_CODEX_MEMORY:-2g}" --cpus "${VEGA_CODEX_CPUS:-1}"
	--label vega.codex=1
)
for name in HTTP_PROXY HTTPS_PROXY FTP_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy ftp_proxy all_proxy no_proxy; do
	isolation+=(--env "$name=")
done

# The container has the worker's own user, so that it can read what the worker can. Root's stands in for nobody: then the source must be readable for all.
uid=$(id -u) gid=$(id -g)
if [ "$uid" = 0 ]; then
	uid=65534 gid=65534
fi
isolation+=(
	--user "$uid:$gid"
	--tmpfs "/codex:rw,noexec,nosuid,nodev,size=256m,mode=0700,uid=$uid,gid=$gid"
	--tmpfs "/tmp:rw,noexec,nosuid,nodev,size=256m,mode=0700,uid=$uid,gid=$gid"
)

image=${VEGA_V16_CODEX_DOCKER_IMAGE:-vega-codex-runner:latest}
case $image in
-*) usage "VEGA_V16_CODEX_DOCKER_IMAGE is $image, which is no image" ;;
esac

# version says whether exec would work, and what with.
version() {
	local reason said
	need_docker
	if ! reason=$(docker version --format '{{.Server.Version}}' 2>&1); then
		fail "the Docker engine does not answer: $(one_line "$reason") Start it, or set VEGA_V16_CODEX_BIN=codex to run Codex without a container"
	fi
	if ! reason=$(docker image inspect --format '{{.Id}}' "$image" 2>&1); then
		fail "Docker has no image $image: build it with make codex-image, or name another in VEGA_V16_CODEX_DOCKER_IMAGE ($(one_line "$reason"))"
	fi
	if ! said=$(docker run "${isolation[@]}" "$image" --version 2>&1 </dev/null); then
		fail "the image $image does not run Codex, build it again with make codex-image: $(one_line "$said")"
	fi
	if [[ $said != *$'\n'"vega container runner $runner" ]]; then
		fail "the image $image is not of this version of Vega, build it again with make codex-image: it says $(one_line "$said")"
	fi
	printf '%s\n' "$said"
}

# remove removes containers by their labels and returns when they are gone.
remove() {
	local filters=(--filter label=vega.codex=1) ids id seen=' ' count=0 reason='' deadline=$((SECONDS + 60))
	if [ -n "${VEGA_CODEX_RUN:-}" ]; then
		filters+=(--filter "label=vega.run=$VEGA_CODEX_RUN")
	elif [ -n "${VEGA_CODEX_FOLDER:-}" ]; then
		filters+=(--filter "label=vega.folder=$VEGA_CODEX_FOLDER")
	else
		usage "--remove needs VEGA_CODEX_RUN or VEGA_CODEX_FOLDER"
	fi
	need_docker
	while :; do
		if ! ids=$(docker ps --all --quiet --no-trunc "${filters[@]}" 2>&1); then
			fail "the Docker engine does not answer: $(one_line "$ids")"
		fi
		[ -n "$ids" ] || break
		[ "$SECONDS" -lt "$deadline" ] || fail "containers could not be removed: $(one_line "$reason")"
		for id in $ids; do
			case $seen in
			*" $id "*) ;;
			*) seen+="$id " count=$((count + 1)) ;;
			esac
			# One that is on its way out already is refused: the next look says whether it is gone.
			reason=$(docker rm --force --volumes "$id" 2>&1) || sleep 0.1
		done
	done
	printf '%s\n' "$count"
}

# bind is a mount of a path as docker reads it: comma-separated values, in which a quoted field may hold commas.
bind() { printf 'type=bind,"source=%s",target=%s' "${1//\"/\"\"}" "$2"; }

# inside is a path as the container has it, where it is one of the two folders or lies in one; of folders that lie in one another the inner one counts.
inside() {
	local outer=$CODEX_HOME outer_name=/codex inner=$VEGA_CODEX_SOURCE inner_name=/source
	if [ "${#outer}" -gt "${#inner}" ]; then
		outer=$VEGA_CODEX_SOURCE outer_name=/source inner=$CODEX_HOME inner_name=/codex
	fi
	case $1 in
	"$inner" | "$inner"/*) printf '%s' "$inner_name${1#"$inner"}" ;;
	"$outer" | "$outer"/*) printf '%s' "$outer_name${1#"$outer"}" ;;
	*) printf '%s' "$1" ;;
	esac
}

# send writes what the container's standard input gets: a line with the key, a tar of the files, and the prompt, which it reads from descriptor 3.
send() {
	local files=() file
	for file in "$CODEX_HOME"/*; do
		[ ! -f "$file" ] || files+=("./${file##*/}")
	done
	printf '%s\n' "$key"
	tar -C "$CODEX_HOME" --format=ustar -cf - "${files[@]}"
	cat <&3
}

run() {
	local name arguments=() argument
	[ "${*: -1}" = - ] || usage "exec needs - as its last argument, and the prompt on standard input"
	for name in CODEX_HOME VEGA_RUN_KEY VEGA_CODEX_SOURCE VEGA_CODEX_SOCKET VEGA_CODEX_PORT VEGA_CODEX_RUN; do
		[ -n "${!name:-}" ] || usage "exec needs $name"
	done
	CODEX_HOME=${CODEX_HOME%/} VEGA_CODEX_SOURCE=${VEGA_CODEX_SOURCE%/}
	[[ $VEGA_CODEX_SOURCE == /* && -d $VEGA_CODEX_SOURCE ]] || fail "VEGA_CODEX_SOURCE is ${VEGA_CODEX_SOURCE:-/}, which is no folder by an absolute path"
	[[ $VEGA_CODEX_SOCKET == /* && -S $VEGA_CODEX_SOCKET ]] || fail "VEGA_CODEX_SOCKET is $VEGA_CODEX_SOCKET, which is no socket by an absolute path"
	[[ -f $CODEX_HOME/config.toml ]] || fail "CODEX_HOME is $CODEX_HOME, in which there is no config.toml"
	[[ $VEGA_RUN_KEY != *$'\n'* ]] || fail "VEGA_RUN_KEY has more than one line"
	need_docker
	key=$VEGA_RUN_KEY
	unset VEGA_RUN_KEY # docker needs no key
	for argument in "$@"; do
		arguments+=("$(inside "$argument")")
	done
	exec 3<&0
	# docker takes the place of this shell, so that signals for this process are signals for docker, which hands them on to the container.
	exec docker run --interactive "${isolation[@]}" --name "vega-codex-$VEGA_CODEX_RUN" \
		--label "vega.run=$VEGA_CODEX_RUN" --label "vega.scan=${VEGA_CODEX_SCAN:-}" --label "vega.folder=${VEGA_CODEX_FOLDER:-}" \
		--mount "$(bind "$VEGA_CODEX_SOURCE" /source),readonly" --mount "$(bind "$VEGA_CODEX_SOCKET" /run/vega/proxy.sock)" --workdir /source \
		--env "VEGA_CODEX_RUNNER=$runner" --env "VEGA_CODEX_PORT=$VEGA_CODEX_PORT" --env "VEGA_CODEX_TIMEOUT_SECONDS=${VEGA_CODEX_TIMEOUT_SECONDS:-3600}" \
		"$image" "${arguments[@]}" < <(send) 3<&-
}

case "${1:-}" in
exec) run "$@" ;;
--version) version ;;
--remove) remove ;;
*) usage "it was called with ${1:-nothing}" ;;
esac

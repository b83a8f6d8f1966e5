# shellcheck shell=bash
# Shared by every script in hack/: paths, messages and waiting.

if [ -n "${AGENTLOOP_HACK_DIR:-}" ]; then return 0; fi
AGENTLOOP_HACK_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly AGENTLOOP_HACK_DIR

# The cache has what can be rebuilt at any time; the state folder has what belongs to a running cluster.
AGENTLOOP_CACHE=${AGENTLOOP_CACHE:-${XDG_CACHE_HOME:-${HOME:?is not set: set it, or AGENTLOOP_CACHE}/.cache}/agentloop}
AGENTLOOP_STATE=${AGENTLOOP_STATE:-${XDG_STATE_HOME:-${HOME:?is not set: set it, or AGENTLOOP_STATE}/.local/state}/agentloop}

# Messages go to stderr: stdout is only for a command's result.
say() { printf '%s\n' "$*" >&2; }

die() {
  printf '%s: %s\n' "${0##*/}" "$1" >&2
  shift
  while [ $# -gt 0 ]; do
    printf '  %s\n' "$1" >&2
    shift
  done
  exit 1
}

# Exit code 2 is for invalid command lines. The script must define usage().
usage_error() {
  printf '%s: %s\n\n' "${0##*/}" "$1" >&2
  usage >&2
  exit 2
}

have() { command -v "$1" >/dev/null 2>&1; }

# Daemons run in another folder, so relative paths would not work.
absolute() {
  case $1 in
    /*) printf '%s\n' "$1" ;;
    *) printf '%s/%s\n' "$PWD" "$1" ;;
  esac
}
AGENTLOOP_CACHE=$(absolute "$AGENTLOOP_CACHE")
AGENTLOOP_STATE=$(absolute "$AGENTLOOP_STATE")

# poll SECONDS COMMAND… : returns 0 as soon as COMMAND succeeds, 1 when the time is up.
poll() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    if [ "$SECONDS" -ge "$deadline" ]; then return 1; fi
    sleep 0.1
  done
}

# tail_of FILE : prints its last lines on stderr, indented, to explain an error.
tail_of() {
  if [ -s "$1" ]; then
    say "last lines of $1:"
    tail -n "${2:-15}" "$1" | cut -c -400 | sed 's/^/  | /' >&2
  else
    say "($1 is empty)"
  fi
}

# shellcheck shell=bash
# Signatures with cosign.

cosign() {
  local log
  log=$(mktemp)
  # It asks nothing, and reports each step of a success on stderr.
  "$("$AGENTLOOP_HACK_DIR/tools/build" --bin cosign)" "$@" </dev/null >"$log" 2>&1 || {
    tail_of "$log"
    rm -f "$log"
    die "cosign $1 failed: see its output above"
  }
  rm -f "$log"
}

# signing_options : prints cosign's options for signing, one a line; nothing if this machine has no identity.
signing_options() {
  if [ -n "${COSIGN_KEY:-}" ]; then
    printf '%s\n' --yes --key "$COSIGN_KEY" --use-signing-config=false --tlog-upload=false
  elif [ -n "${ACTIONS_ID_TOKEN_REQUEST_TOKEN:-}" ]; then
    printf '%s\n' --yes
  fi
}

# shellcheck shell=bash
# shellcheck disable=SC2034 # other files read what is set here
# buildah with a store of its own for every build: builds cannot disturb each other, the user's image store stays
# untouched, and no files accumulate.

# open_store : creates the store and sets STORE. The caller removes it with close_store, in a trap.
open_store() {
  "$AGENTLOOP_HACK_DIR/prerequisites" images
  mkdir -p "$AGENTLOOP_CACHE/buildah"
  STORE=$(mktemp -d "$AGENTLOOP_CACHE/buildah/XXXXXXXX")
}

close_store() { [ -z "${STORE:-}" ] || rm -rf --one-file-system "$STORE"; }

# in_store WHAT ARGUMENT… : runs buildah. WHAT is what the error message says cannot be done.
in_store() {
  local what=$1
  shift
  TMPDIR=$STORE buildah --root "$STORE/root" --runroot "$STORE/run" --storage-driver vfs "$@" >>"$STORE/log" 2>&1 || {
    tail_of "$STORE/log" 30
    die "cannot $what: see buildah's output above"
  }
}

# In chroots, because the daemon and the privileges of a container engine are not needed. All base images are local.
readonly BUILD_OPTIONS=(--isolation chroot --signature-policy "$AGENTLOOP_HACK_DIR/images/policy.json")
readonly PUSH_OPTIONS=(--signature-policy "$AGENTLOOP_HACK_DIR/images/policy.json")

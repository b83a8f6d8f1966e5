# shellcheck shell=bash
# Builds from scratch the two images that a cluster itself needs, and loads images into a cluster.

readonly BASE_IMAGES=(pause busybox)

# base_image NAME : prints the archive of localhost/NAME:1; builds it unless it is in the cache.
base_image() {
  local recipe=$AGENTLOOP_HACK_DIR/images/$1 hash archive
  hash=$(cat "$recipe/Containerfile" "$(command -v busybox)" "$AGENTLOOP_HACK_DIR/lib/images.sh" | sha256sum)
  archive=$AGENTLOOP_CACHE/images/$1-${hash:0:16}.tar
  if [ ! -e "$archive" ]; then
    mkdir -p "$AGENTLOOP_CACHE/images"
    build_base_image "$1" "$recipe" "$archive"
  fi
  echo "$archive"
}

# build_base_image NAME RECIPE ARCHIVE : both images contain only Debian's static busybox.
build_base_image() (
  context=$(mktemp -d)
  trap 'rm -rf "$context"' EXIT
  cp "$2/Containerfile" "$context/"
  "stage_$1" "$context/rootfs"
  "$AGENTLOOP_HACK_DIR/image-build" "localhost/$1:1" "$context" "$3"
)

stage_pause() {
  mkdir -p "$1"
  cp "$(command -v busybox)" "$1/busybox"
}

stage_busybox() {
  local applet
  mkdir -p "$1/bin" "$1/etc" "$1/home"
  mkdir -m 1777 "$1/tmp"
  cp "$(command -v busybox)" "$1/bin/busybox"
  for applet in $(busybox --list); do
    # It lists itself.
    if [ "$applet" != busybox ]; then ln -s busybox "$1/bin/$applet"; fi
  done
  printf '%s\n' root:x:0:0:root:/:/bin/sh nonroot:x:65532:65532:nonroot:/home:/bin/sh >"$1/etc/passwd"
  printf '%s\n' root:x:0: nonroot:x:65532: >"$1/etc/group"
}

import_image() {
  ctr images import "$1" >"$CLUSTER_DIR/logs/import.log" 2>&1 || {
    tail_of "$CLUSTER_DIR/logs/import.log"
    die "cluster $CLUSTER_NAME: cannot load $1" "it must be an OCI archive with an image name, such as those of hack/image-build"
  }
}

load_base_images() {
  local image archive
  wait_for_daemon 30 containerd "its socket answers" ctr version
  for image in "${BASE_IMAGES[@]}"; do
    archive=$(base_image "$image")
    import_image "$archive"
  done
  # The cluster pulls no images, so this name, which the examples use, must exist locally.
  ctr images tag --force localhost/busybox:1 docker.io/library/busybox:1 >/dev/null
}

load_archives() {
  local archive
  for archive in "$@"; do
    [ -f "$archive" ] || die "the archive $archive does not exist" "fix: hack/image-build NAME CONTEXT $archive"
  done
  for archive in "$@"; do
    import_image "$archive"
    say "cluster $CLUSTER_NAME: loaded $archive"
  done
}

# images_annotation ARCHIVE… : prints an argument for helm --set-string. The tag is the same for every build, so only
# this annotation makes the Deployment roll out new images.
images_annotation() { echo "podAnnotations.images=$(cat "$@" | sha256sum | cut -c -16)"; }

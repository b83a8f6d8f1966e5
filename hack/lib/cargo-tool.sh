# shellcheck shell=bash
# Programs that are published as crates, each built once into the cache.

# cargo_tool NAME VERSION MINUTES : prints the path of the program. If it must be built, says how many minutes that
# takes.
cargo_tool() {
  local name=$1 version=$2 minutes=$3
  local root=$AGENTLOOP_CACHE/cargo/$name-$version
  if [ ! -x "$root/bin/$name" ]; then
    say "building $name $version (once; about $minutes min on two cores)"
    CARGO_TARGET_DIR=$root/target cargo install --quiet --locked --version "$version" --root "$root" "$name" >&2
    rm -rf "$root/target"
  fi
  printf '%s\n' "$root/bin/$name"
}

# shellcheck shell=bash
# Builds the static programs of the images. The same commit and the same compilers give the same bytes, in whatever
# folder it is checked out: the programs contain no path of this machine.

# The machine that each architecture of an image needs, in the words of rustc.
triple_of() {
  case $1 in
    amd64) echo x86_64-unknown-linux-gnu ;;
    arm64) echo aarch64-unknown-linux-gnu ;;
    *) usage_error "there are no images for the architecture '$1': use amd64 or arm64" ;;
  esac
}

# The architecture of this machine's images.
host_arch() { case $(uname -m) in x86_64) echo amd64 ;; aarch64) echo arm64 ;; *) uname -m ;; esac; }

# The C compiler that links programs for TRIPLE on this machine.
linker_of() {
  if [ "$1" = "$(host_triple)" ]; then echo cc; else echo "${1%%-*}-linux-gnu-gcc"; fi
}

host_triple() { rustc -vV | sed -n 's/^host: //p'; }

# what_misses_for TRIPLE : prints what is missing to build programs for TRIPLE, and how to install it; else nothing.
what_misses_for() {
  local sysroot
  sysroot=$(rustc --print sysroot)
  if [ ! -d "$sysroot/lib/rustlib/$1/lib" ]; then
    echo "Rust's standard library for $1 is missing: hack/prerequisites cross"
  elif ! have "$(linker_of "$1")"; then
    echo "the linker $(linker_of "$1") is missing: hack/prerequisites cross"
  fi
}

# With an explicit target, these flags do not apply to build scripts and macros, which cannot be static. Separated by
# \x1f, so that paths may contain spaces. The compiler knows the files of this checkout by relative paths already.
flags_of_programs() {
  local flags=(-C target-feature=+crt-static) index
  for index in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do
    flags+=("--remap-path-prefix=$index=/crates")
  done
  (IFS=$'\x1f'; printf '%s' "${flags[*]}")
}

# static_program PACKAGE PROFILE TRIPLE : builds the package's program in the current checkout and prints its path.
static_program() {
  local target linker=()
  target=$(cargo metadata --format-version 1 --no-deps | grep -o '"target_directory":"[^"]*"' | cut -d '"' -f 4)
  # For another machine only: for this one, it would also apply to build scripts, and each build would start from scratch.
  if [ "$3" != "$(host_triple)" ]; then
    linker=("CARGO_TARGET_$(tr a-z- A-Z_ <<<"$3")_LINKER=$(linker_of "$3")")
  fi
  # Unpacks the dependencies, whose folders are in the flags.
  cargo fetch --quiet --locked --target "$3" >&2
  # SOURCE_DATE_EPOCH would start the build of each commit from scratch; the programs contain no date.
  env --unset SOURCE_DATE_EPOCH "${linker[@]}" CARGO_ENCODED_RUSTFLAGS="$(flags_of_programs)" CARGO_INCREMENTAL=0 \
    cargo build --locked --package "$1" --bin "$1" --profile "$2" --target "$3" >&2
  if [ "$2" = dev ]; then echo "$target/$3/debug/$1"; else echo "$target/$3/$2/$1"; fi
}

# The version of the Cargo workspace.
workspace_version() {
  local version
  version=$(cargo pkgid --package agentloop)
  echo "${version##*[#@]}"
}

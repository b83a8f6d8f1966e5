# shellcheck shell=bash
# Python with the packages of a test, in a folder of the cache.

# python_with_packages REQUIREMENTS : prints the interpreter, after installing what the file names.
# The folder's name changes with what is in it, so no stale package is ever used.
python_with_packages() {
  local hash venv
  hash=$({ cat "$1"; python3 --version; } | sha256sum)
  venv=$AGENTLOOP_CACHE/python-${hash:0:16}
  if [ ! -e "$venv/complete" ]; then
    say "installing the packages of $1…"
    rm -rf "$venv"
    python3 -m venv "$venv" || die "cannot make a Python environment" "cure (Debian): apt-get install python3-venv"
    "$venv/bin/pip" install --quiet --requirement "$1" >&2
    touch "$venv/complete"
  fi
  echo "$venv/bin/python"
}

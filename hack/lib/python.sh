# shellcheck shell=bash
# Python environments for tests, in the cache.

# python_with_packages REQUIREMENTS : installs the packages of this file and prints the path of the interpreter. The
# name of the folder changes with the file's content, so no outdated package is ever used.
python_with_packages() {
  local hash venv
  hash=$({ cat "$1"; python3 --version; } | sha256sum)
  venv=$AGENTLOOP_CACHE/python-${hash:0:16}
  if [ ! -e "$venv/complete" ]; then
    say "installing the packages of $1…"
    rm -rf "$venv"
    python3 -m venv "$venv" || die "cannot create a Python environment" "fix (Debian): apt-get install python3-venv"
    "$venv/bin/pip" install --quiet --requirement "$1" >&2
    touch "$venv/complete"
  fi
  echo "$venv/bin/python"
}

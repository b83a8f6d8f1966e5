# shellcheck shell=bash
require_short_path() { :; }

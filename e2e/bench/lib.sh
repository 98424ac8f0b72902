# shellcheck shell=bash
# What the benchmarks share. Sourced by */run.

say() { printf 'bench: %s\n' "$*"; }
die() {
  printf 'bench: %s\n' "$*" >&2
  exit 1
}

need_gnuplot() {
  ! command -v gnuplot >/dev/null || return 0
  ((EUID == 0)) || die "gnuplot is missing: install the package gnuplot-nox, then run this again"
  say "installing gnuplot-nox"
  apt-get install -y -qq gnuplot-nox >/dev/null || { apt-get update -qq && apt-get install -y -qq gnuplot-nox >/dev/null; }
}

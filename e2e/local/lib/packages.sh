# shellcheck shell=bash
# Makes sure that what comes from Debian is installed. Sourced by ../local.

PG_BIN=/usr/lib/postgresql/15/bin

packages_missing() {
  [[ -x $PG_BIN/postgres && -x $PG_BIN/initdb ]] || echo postgresql-15
  [[ -e /usr/share/postgresql/15/extension/postgis.control ]] || echo postgresql-15-postgis-3
  command -v psql >/dev/null || echo postgresql-client-15
  command -v curl >/dev/null || echo curl
  command -v jq >/dev/null || echo jq
  command -v node >/dev/null || echo nodejs
  command -v npm >/dev/null || echo npm
}

packages_ensure() {
  local missing as_root=()
  mapfile -t missing < <(packages_missing)
  ((${#missing[@]} > 0)) || return 0
  command -v apt-get >/dev/null ||
    die "missing: ${missing[*]} (names of Debian packages), and there is no apt-get here. Install them by your system's own means: PostgreSQL must be in $PG_BIN."
  if ((EUID != 0)); then
    command -v sudo >/dev/null ||
      die "missing: ${missing[*]}. $(id -un) is not root and there is no sudo: ask for 'apt-get install ${missing[*]}' to be run as root, then run this again."
    as_root=(sudo)
  fi
  say "installing from Debian: ${missing[*]}"
  # Else the package starts a server of its own, 'main', on port 5432. The file is the
  # administrator's: where there is one already, it stays as it is.
  if [[ ! -e /etc/postgresql-common/createcluster.conf ]]; then
    "${as_root[@]}" mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' |
      "${as_root[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
  fi
  "${as_root[@]}" apt-get update -q >&2 ||
    die "apt-get update failed: its message is above. Without a package list nothing can be installed (${missing[*]} are missing)."
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 \
    apt-get install -q -y --no-install-recommends "${missing[@]}" >&2 ||
    die "apt-get could not install ${missing[*]}: its message is above."
}

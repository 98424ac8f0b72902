# shellcheck shell=bash
# The throw-away PostgreSQL of an environment. Sourced by ../local.

# The server refuses to run as root, and must reach its data as the user it runs as, which it
# cannot below a home directory of mode 700. So the data is always in a directory of its own:
PG_PARENT=/var/tmp/portal-release-pg

postgres_data() { # STATE
  [[ -s $1/pg/dir ]] && printf '%s/data\n' "$(<"$1/pg/dir")"
}

# setpriv rather than runuser: it becomes the command, runuser would stay as its parent.
AS_POSTGRES=()
((EUID != 0)) || AS_POSTGRES=(setpriv --reuid=postgres --regid=postgres --init-groups --reset-env --)

postgres_running() { # STATE
  local data
  data=$(postgres_data "$1") || return 1
  [[ -r $data/postmaster.pid ]] && is_ours "$(head -n 1 "$data/postmaster.pid")" "$data"
}

# True when the server answers with our password, so not when another server has the port.
postgres_answers() { # STATE
  PGPASSWORD=$(<"$1/pg/password") psql -h 127.0.0.1 -p "$(<"$1/pg/port")" -U postgres -d postgres \
    -w -qAtc 'SELECT 1' >/dev/null 2>&1
}

postgres_init() { # STATE
  local state=$1 dir
  mkdir -p "$state/pg"
  dir=$(mktemp -d "$PG_PARENT.XXXXXX")
  printf '%s\n' "$dir" >"$state/pg/dir"
  od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$state/pg/password"
  cp "$state/pg/password" "$dir/password"
  ((EUID != 0)) || chown -R postgres: "$dir"
  say "making a PostgreSQL data directory in $dir"
  (cd "$dir" && "${AS_POSTGRES[@]}" "$PG_BIN/initdb" -D "$dir/data" -U postgres --pwfile="$dir/password" \
    --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8) >"$state/log/initdb.log" 2>&1 ||
    die "initdb in $dir failed: see $state/log/initdb.log, then run 'local down ${state##*/}' and try again."
  rm "$dir/password"
  touch "$state/pg/initialized"
}

postgres_up() { # STATE
  local state=$1 data port attempt
  if postgres_running "$state" && postgres_answers "$state"; then return 0; fi
  if [[ ! -e $state/pg/initialized ]]; then
    postgres_down "$state"
    postgres_init "$state"
  fi
  data=$(postgres_data "$state")
  # A COMMIT is durable here once it is on the disk. With synchronous_commit = on it would wait for a standby that there is
  # not: so a test lets one COMMIT hang after it is done, and no other.
  for attempt in 1 2 3 4 5; do
    # A restart keeps its port, as connection strings made before it name it.
    if ((attempt <= 2)) && [[ -s $state/pg/port ]]; then port=$(<"$state/pg/port"); else port=$(free_port); fi
    printf '%s\n' "$port" >"$state/pg/port"
    (
      cd "$data/.." || exit
      "${AS_POSTGRES[@]}" setsid "$PG_BIN/postgres" -D "$data" -p "$port" -k "${data%/data}" \
        -c listen_addresses=127.0.0.1 -c max_connections=300 -c shared_buffers=256MB \
        -c synchronous_commit=local -c synchronous_standby_names=ghost \
        -c max_wal_size=4GB -c fsync=on -c log_line_prefix='%m [%p] %q%u@%d %a ' \
        </dev/null >>"$state/log/postgres.log" 2>&1 &
      printf '%s\n' "$!" >"$state/pg/pid"
    )
    # Recovery after a kill can take a while; a server that could not start is gone at once.
    for _ in {1..300}; do
      sleep 0.1
      ! postgres_answers "$state" || return 0
      is_ours "$(<"$state/pg/pid")" "$data" || break
    done
    stop_ours PostgreSQL "$(<"$state/pg/pid")" "$data" QUIT 10
    say "PostgreSQL did not start on port $port (attempt $attempt of 5)"
    sleep 1
  done
  die "PostgreSQL did not start: see the end of $state/log/postgres.log, then run 'local down ${state##*/}' and try again."
}

postgres_down() { # STATE
  local state=$1 data pid dir
  data=$(postgres_data "$state") || return 0
  dir=${data%/data}
  for pid in $(cat "$state/pg/pid" 2>/dev/null || true; head -n 1 "$data/postmaster.pid" 2>/dev/null || true); do
    stop_ours PostgreSQL "$pid" "$data" INT 20
  done
  # Deletes only what postgres_init can have made.
  [[ $dir == "$PG_PARENT".* && $dir != */../* ]] || die "$state/pg/dir names $dir, which is not ours: delete the file $state/pg/dir."
  rm -rf -- "$dir" "$state/pg"
}

# shellcheck shell=bash
# The S3 endpoint of an environment: s3rver, pinned in s3/package-lock.json. Sourced by ../local.

# Prints the program, after installing it into the cache once for each lock file.
s3_program() {
  local hash dir part
  hash=$(sha256sum <"$HERE/s3/package-lock.json")
  dir=$CACHE/s3-${hash:0:16}
  if [[ ! -d $dir ]]; then
    say "installing s3rver with npm"
    part=$(mktemp -d "$CACHE/s3-part.XXXXXX")
    cp "$HERE/s3/package.json" "$HERE/s3/package-lock.json" "$HERE/s3/.npmrc" "$part/"
    if ! (cd "$part" && npm ci --ignore-scripts --loglevel=error >&2); then
      rm -rf "$part"
      die "npm ci of e2e/local/s3 failed: npm's message is above. Check that npm reaches its registry, then run this again."
    fi
    mv -T "$part" "$dir"
  fi
  printf '%s\n' "$dir/node_modules/s3rver/bin/s3rver.js"
}

s3_running() { # STATE
  [[ -s $1/s3/pid ]] && is_ours "$(<"$1/s3/pid")" "$1/s3/data"
}

s3_answers() { # STATE
  s3_running "$1" && [[ -s $1/s3/port ]] &&
    curl -s -o /dev/null --max-time 5 "http://127.0.0.1:$(<"$1/s3/port")/"
}

s3_up() { # STATE
  local state=$1 program port bucket buckets=() attempt
  if s3_answers "$state"; then return 0; fi
  stop_ours s3rver "$(cat "$state/s3/pid" 2>/dev/null || true)" "$state/s3/data" TERM 5
  program=$(s3_program)
  mkdir -p "$state/s3/data"
  for bucket in ${S3_BUCKETS:-portal-data portal-site}; do
    buckets+=(--configure-bucket "$bucket")
  done
  for attempt in 1 2 3 4 5; do
    if ((attempt == 1)) && [[ -s $state/s3/port ]]; then port=$(<"$state/s3/port"); else port=$(free_port); fi
    printf '%s\n' "$port" >"$state/s3/port"
    setsid node "$program" -d "$state/s3/data" -a 127.0.0.1 -p "$port" --no-vhost-buckets "${buckets[@]}" \
      </dev/null >>"$state/log/s3.log" 2>&1 &
    printf '%s\n' "$!" >"$state/s3/pid"
    # Waits a little before the first look: until setsid has become node the process is not ours yet.
    for _ in {1..100}; do
      sleep 0.1
      s3_running "$state" || break
      ! s3_answers "$state" || return 0
    done
    stop_ours s3rver "$(<"$state/s3/pid")" "$state/s3/data" TERM 5
    say "s3rver did not start on port $port (attempt $attempt of 5)"
  done
  die "s3rver did not start: see the end of $state/log/s3.log, then run 'local down ${state##*/}' and try again."
}

s3_down() { # STATE
  stop_ours s3rver "$(cat "$1/s3/pid" 2>/dev/null || true)" "$1/s3/data" TERM 5
}

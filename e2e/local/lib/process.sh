# shellcheck shell=bash
# Processes and ports. Sourced by ../local.

# True when process PID runs and its command line holds TEXT (a path that only ours names).
# A recorded pid alone proves nothing: after a reboot it may belong to someone else.
is_ours() { # PID TEXT
  local command
  [[ $1 =~ ^[0-9]+$ ]] || return 1
  command=$(tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline") 2>/dev/null || return 1
  [[ $command == *"$2"* ]]
}

# Stops PID if it is still ours: first politely with SIGNAL, after SECONDS_ for good.
stop_ours() { # WHAT PID TEXT SIGNAL SECONDS
  local what=$1 pid=$2 text=$3 signal=$4 tries=$(($5 * 10))
  is_ours "$pid" "$text" || return 0
  kill "-$signal" "$pid" 2>/dev/null ||
    die "cannot stop $what (process $pid): $(id -un) may not. Run 'local down' as the user who ran 'local up'."
  while is_ours "$pid" "$text"; do
    if ((tries-- == 0)); then
      say "$what (process $pid) did not stop after $5 s: killing it"
      kill -KILL "$pid" 2>/dev/null || true
      sleep 0.2
      return 0
    fi
    sleep 0.1
  done
}

# A port of 127.0.0.1 where nothing listens: below both the range that kwokctl takes and the
# one the kernel gives to outgoing connections. Callers still retry, as another may take it.
free_port() {
  local port
  while true; do
    port=$((12000 + RANDOM % 8000))
    if ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      printf '%s\n' "$port"
      return 0
    fi
  done
}

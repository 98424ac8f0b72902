# shellcheck shell=bash
# The control plane and its fake node, run by kwokctl as plain processes. Sourced by ../local.

# In the order in which they are stopped: those that use another one before it.
COMPONENTS=(kwok-controller kube-scheduler kube-controller-manager kube-apiserver etcd)

cluster_dir() { printf '%s/kwok/clusters/%s\n' "$1" "${1##*/}"; }              # STATE
cluster_pid_file() { printf '%s/pids/%s.pid\n' "$(cluster_dir "$1")" "$2"; } # STATE COMPONENT
cluster_pid() { cat "$(cluster_pid_file "$1" "$2")" 2>/dev/null || true; }   # STATE COMPONENT

# Every component names a file of the cluster's directory on its command line.
cluster_component_running() { is_ours "$(cluster_pid "$1" "$2")" "$(cluster_dir "$1")/"; } # STATE COMPONENT

cluster_running() { # STATE
  local component
  for component in "${COMPONENTS[@]}"; do
    cluster_component_running "$1" "$component" || return 1
  done
}

cluster_kubectl() { # STATE BIN ARG...
  local state=$1 bin=$2
  shift 2
  "$bin/kubectl" --kubeconfig "$state/kubeconfig" --request-timeout 10s "$@"
}

cluster_kwokctl() { # STATE BIN ARG...
  local state=$1 bin=$2
  shift 2
  # With our kubectl first on the PATH, kwokctl does not try to fetch one. Its pid is kept so that
  # 'down' can stop it when 'up' was interrupted: it would go on starting servers.
  # Memory is cheaper than time here: nearly half of the API server's work was the collection of garbage.
  GOGC=400 KWOK_WORKDIR=$state/kwok PATH=$bin:$PATH "$bin/kwokctl" --name "${state##*/}" "$@" \
    </dev/null >>"$state/log/kwokctl.log" 2>&1 &
  printf '%s\n' "$!" >"$state/kwokctl.pid"
  wait "$!"
}

cluster_create() { # STATE BIN
  local state=$1 bin=$2
  mkdir -p "$state/kwok"
  # Without bindAddress everything would listen on all interfaces.
  cat >"$state/kwok/config.yaml" <<CONFIG
apiVersion: config.kwok.x-k8s.io/v1alpha1
kind: KwokctlConfiguration
options:
  runtime: binary
  bindAddress: 127.0.0.1
  kubeVersion: $("$bin/kube-apiserver" --version | cut -d ' ' -f 2)
  etcdBinary: $bin/etcd
  kubeApiserverBinary: $bin/kube-apiserver
  kubeControllerManagerBinary: $bin/kube-controller-manager
  kubeSchedulerBinary: $bin/kube-scheduler
  kwokControllerBinary: $bin/kwok
  kubectlBinary: $bin/kubectl
  kubeAuditPolicy: $HERE/cluster/audit-policy.yaml
  enableCRDs: [Stage, Logs]
CONFIG
  cluster_kwokctl "$state" "$bin" create cluster --config "$state/kwok/config.yaml" \
    --kubeconfig "$state/kubeconfig" --wait 120s
}

cluster_up() { # STATE BIN
  local state=$1 bin=$2 attempt component
  if [[ -e $state/kwok/created ]]; then
    if cluster_running "$state" && cluster_kubectl "$state" "$bin" get --raw /readyz >/dev/null 2>&1; then return 0; fi
    # kwokctl believes any living process with a recorded pid to be its own: forget the dead ones.
    for component in "${COMPONENTS[@]}"; do
      cluster_component_running "$state" "$component" || rm -f "$(cluster_pid_file "$state" "$component")"
    done
    say "restarting what stopped of the control plane"
    cluster_kwokctl "$state" "$bin" start cluster --wait 120s ||
      die "the control plane did not come back: see $state/log/kwokctl.log and $(cluster_dir "$state")/logs. 'local down ${state##*/}' and then 'local up ${state##*/}' make a new one."
  else
    say "starting the control plane"
    for attempt in 1 2 3; do
      # What exists is half-made: start over.
      cluster_down "$state"
      if cluster_create "$state" "$bin"; then break; fi
      ((attempt < 3)) ||
        die "kwokctl could not make the control plane: see the end of $state/log/kwokctl.log and $(cluster_dir "$state")/logs, then run 'local down ${state##*/}' and try again."
      say "kwokctl could not make the control plane (attempt $attempt of 3): trying again"
    done
    cluster_kubectl "$state" "$bin" wait --for=condition=Established crd/stages.kwok.x-k8s.io crd/logs.kwok.x-k8s.io --timeout 30s >/dev/null
    cluster_kubectl "$state" "$bin" apply --server-side -f "$HERE/cluster/stages.yaml" \
      -f "$HERE/cluster/node.yaml" >/dev/null
    touch "$state/kwok/created"
  fi
  cluster_kubectl "$state" "$bin" wait --request-timeout 0 --for=condition=Ready node/fake-0 --timeout 60s >/dev/null ||
    die "the fake node fake-0 is not Ready after a minute: see $(cluster_dir "$state")/logs/kwok-controller.log."
}

cluster_down() { # STATE
  local state=$1 component
  stop_ours kwokctl "$(cat "$state/kwokctl.pid" 2>/dev/null || true)" "kwokctl --name ${state##*/} " KILL 5
  # Not long: kube-apiserver waits for open watches, and everything is deleted anyway.
  for component in "${COMPONENTS[@]}"; do
    stop_ours "$component" "$(cluster_pid "$state" "$component")" "$(cluster_dir "$state")/" TERM 3
  done
  rm -rf -- "$state/kwok" "$state/kubeconfig"
}

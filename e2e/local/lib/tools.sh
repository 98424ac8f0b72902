# shellcheck shell=bash
# Builds the control plane and its tools from pinned Go modules into the cache directory.
# Sourced by ../local; uses its say, die, CACHE and HERE.

# The versions in tools/*/go.mod decide what is built; these only make the binaries report them.
KUBE_VERSION=v1.36.3
KWOK_VERSION=v0.8.0
HELM_VERSION=v4.3.1

kube_flags="-X k8s.io/component-base/version.gitVersion=$KUBE_VERSION"
kube_flags+=" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36"
kube_flags+=" -X k8s.io/component-base/version.gitTreeState=clean"

# binary | module directory in tools/ | package | rough time on 2 cores | linker flags
TOOLS=(
  "etcd|etcd|go.etcd.io/etcd/server/v3|20 seconds|"
  "kube-apiserver|kubernetes|k8s.io/kubernetes/cmd/kube-apiserver|3 minutes|$kube_flags"
  "kube-controller-manager|kubernetes|k8s.io/kubernetes/cmd/kube-controller-manager|75 seconds|$kube_flags"
  "kube-scheduler|kubernetes|k8s.io/kubernetes/cmd/kube-scheduler|5 seconds|$kube_flags"
  "kubectl|kubernetes|k8s.io/kubernetes/cmd/kubectl|20 seconds|$kube_flags"
  "kwok|kwok|sigs.k8s.io/kwok/cmd/kwok|40 seconds|-X sigs.k8s.io/kwok/pkg/consts.Version=$KWOK_VERSION"
  "kwokctl|kwok|sigs.k8s.io/kwok/cmd/kwokctl|20 seconds|-X sigs.k8s.io/kwok/pkg/consts.Version=$KWOK_VERSION"
  "helm|helm|helm.sh/helm/v4/cmd/helm|80 seconds|-X helm.sh/helm/v4/internal/version.version=$HELM_VERSION"
)

# The envtest convention: a directory that already holds kube-apiserver, etcd and kubectl.
tools_assets() {
  local assets=${KUBEBUILDER_ASSETS:-} name
  [[ -n $assets ]] || return 0
  for name in kube-apiserver etcd kubectl; do
    if [[ ! -x $assets/$name ]]; then
      say "KUBEBUILDER_ASSETS=$assets has no $name that can be run: building everything instead"
      return 0
    fi
  done
  (cd "$assets" && pwd)
}

# One directory for each set of pins, so that an old checkout and a new one never share binaries.
tools_bin() {
  local hash
  hash=$({
    cat "$HERE"/tools/*/go.mod "$HERE"/tools/*/go.sum
    printf '%s\n' "${TOOLS[@]}" "assets=$1"
  } | sha256sum)
  printf '%s/tools-%s/bin\n' "$CACHE" "${hash:0:16}"
}

tool_build() { # BIN NAME MODULE PACKAGE TIME LDFLAGS
  local bin=$1 name=$2 module=$3 package=$4 time=$5 ldflags=$6 start=$SECONDS part
  part=$bin/.$name.part
  command -v go >/dev/null ||
    die "cannot build $name: there is no go on the PATH. Install Go 1.26 or newer and run this again."
  say "building $name (about $time on 2 cores)"
  # Built beside its place and then moved: an interrupted build leaves nothing that looks finished.
  (cd "$HERE/tools/$module" &&
    CGO_ENABLED=0 go build -trimpath -ldflags "-s -w $ldflags" -o "$part" "$package") >&2 ||
    die "building $name from $package failed: Go's own message is above. What was built before it is kept; run this again."
  mv "$part" "$bin/$name"
  say "built $name in $((SECONDS - start)) s"
}

# Prints the directory that holds all binaries.
tools_ensure() {
  local assets bin entry name module package time ldflags missing=0 lock
  assets=$(tools_assets)
  bin=$(tools_bin "$assets")
  for entry in "${TOOLS[@]}"; do
    [[ -x $bin/${entry%%|*} ]] || missing=$((missing + 1))
  done
  if ((missing > 0)); then
    mkdir -p "$bin" 2>/dev/null ||
      die "cannot make $bin for the tools: set PORTAL_RELEASE_CACHE to a directory that $(id -un) can write."
    exec {lock}>"$bin/.lock" ||
      die "cannot lock $bin: $missing tools are missing there and $(id -un) cannot write to it. Run 'local tools' as its owner, or set PORTAL_RELEASE_CACHE to another directory."
    if ! flock -n "$lock"; then
      say "another 'local tools' is building into $bin: waiting for it"
      flock "$lock"
    fi
    for entry in "${TOOLS[@]}"; do
      IFS='|' read -r name module package time ldflags <<<"$entry"
      [[ ! -x $bin/$name ]] || continue
      if [[ -n $assets && -x $assets/$name ]]; then
        say "taking $name from $assets"
        ln -sfn "$assets/$name" "$bin/$name"
      else
        tool_build "$bin" "$name" "$module" "$package" "$time" "$ldflags"
      fi
    done
    exec {lock}>&-
  fi
  printf '%s\n' "$bin"
}

# shellcheck shell=bash
# Starts, finds and ends the daemons of the selected cluster.
#
# There are no pid files, which could be outdated: a daemon of a cluster is a process of one of these programs whose
# command line names a file in the cluster's folder.

readonly DAEMONS=" etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy
  containerd containerd-shim-runc-v2 local-path-provisioner docker-registry "

# daemons : prints lines of "PID PROGRAM".
daemons() {
  local entry args program
  for entry in /proc/[0-9]*; do
    args=()
    { mapfile -d '' -t args <"$entry/cmdline"; } 2>/dev/null || continue
    program=${args[0]:-}
    program=${program##*/}
    if [ -z "$program" ] || [[ $DAEMONS != *[[:space:]]"$program"[[:space:]]* ]]; then continue; fi
    if [[ ${args[*]} == *"$CLUSTER_DIR/"* ]]; then echo "${entry#/proc/} $program"; fi
  done
}

pids_of() { daemons | awk -v program="$1" '$2 == program { print $1 }'; }

is_running() { [ -n "$(pids_of "$1")" ]; }

is_gone() { ! is_running "$1"; }

# kill_daemon PROGRAM : with SIGKILL. The cluster's files are deleted anyway, so there is no need to wait a minute until
# the API server has shut down gracefully.
kill_daemon() {
  local pids
  mapfile -t pids < <(pids_of "$1")
  if [ ${#pids[@]} -eq 0 ]; then return 0; fi
  kill -KILL "${pids[@]}" 2>/dev/null || true
  poll 10 is_gone "$1" || die "cluster $CLUSTER_NAME: $1 (pid ${pids[*]}) cannot be killed" "to see its state: ps -o pid,stat,wchan,args -p ${pids[*]}"
}

# start_daemon PROGRAM ARGUMENT… : the daemon outlives the terminal. It does not inherit the caller's environment,
# because an HTTP proxy there would also apply to the API server's own requests.
start_daemon() {
  local program=$1
  shift
  (
    cd "$CLUSTER_DIR" || exit
    exec "${INSIDE[@]}" env -i "PATH=$DAEMON_PATH" "HOME=$CLUSTER_DIR" TMPDIR=/tmp setsid "$(tool "$program")" "$@" \
      </dev/null >>"$(log_of "$program")" 2>&1 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-
  ) &
  STARTED_PID[$program]=$!
  # Otherwise the shell prints a message when it is killed.
  disown
}

declare -A STARTED_PID=()

log_of() { echo "$CLUSTER_DIR/logs/$1.log"; }

# wait_for_daemon SECONDS PROGRAM WHAT COMMAND… : waits until COMMAND succeeds; explains the failure if it does not.
wait_for_daemon() {
  local deadline=$((SECONDS + $1)) program=$2 what=$3
  shift 3
  until "$@" >/dev/null 2>&1; do
    if ! kill -0 "${STARTED_PID[$program]}" 2>/dev/null; then
      tail_of "$(log_of "$program")"
      die "cluster $CLUSTER_NAME: $program ended before $what: see its log above" "to try again: hack/cluster up --name $CLUSTER_NAME"
    fi
    if [ "$SECONDS" -ge "$deadline" ]; then
      tail_of "$(log_of "$program")"
      die "cluster $CLUSTER_NAME: $program is running, but this did not happen in time: $what" "see its log above; on a busy machine, try again"
    fi
    sleep 0.1
  done
}

# tool NAME : prints the path of its binary, which must be built already. The registry is Debian's.
tool() {
  local dir IFS=:
  if [ "$1" = docker-registry ]; then
    command -v docker-registry
    return
  fi
  for dir in $TOOLS_PATH; do
    if [ -x "$dir/$1" ]; then
      echo "$dir/$1"
      return
    fi
  done
  die "the tool $1 is not built" "fix: hack/tools/build $1"
}

find_tools() {
  TOOLS_PATH=$("$AGENTLOOP_HACK_DIR/tools/build" --path)
  DAEMON_PATH=$TOOLS_PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
}

# kube ARGUMENT… : runs kubectl on the selected cluster, without the user's own kubeconfig.
kube() {
  KUBECACHEDIR=$CLUSTER_DIR/kubectl-cache KUBERC=off "$(tool kubectl)" --kubeconfig "$KUBECONFIG_FILE" --request-timeout=10s "$@"
}

# shellcheck shell=bash
# shellcheck disable=SC2034 # other files read what is set here
# A cluster's name determines the paths of its files. Its slot determines its addresses on this machine.

readonly CLUSTERS_DIR=$AGENTLOOP_STATE/clusters
# Like networks, slots belong to the machine and not to a state folder, and are gone after a reboot.
readonly SLOTS_DIR=/run/agentloop/slots
readonly LAST_SLOT=99

# select_cluster NAME : sets CLUSTER_NAME, CLUSTER_DIR, KUBECONFIG_FILE.
select_cluster() {
  [[ $1 =~ ^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$ ]] ||
    usage_error "'$1' is not a cluster name: use at most 32 lower case letters, digits and dashes"
  CLUSTER_NAME=$1
  CLUSTER_DIR=$CLUSTERS_DIR/$1
  KUBECONFIG_FILE=$CLUSTER_DIR/kubeconfig
}

# Only one command at a time may change a cluster. Daemons do not inherit descriptor 9.
lock_cluster() {
  mkdir -p "$AGENTLOOP_STATE/locks" || die "cannot write to the state folder $AGENTLOOP_STATE" "fix: set AGENTLOOP_STATE to a writable folder"
  exec 9>"$AGENTLOOP_STATE/locks/$CLUSTER_NAME"
  flock -w 300 9 || die "cluster $CLUSTER_NAME: another hack/cluster has been changing it for 5 minutes" "wait for it, or stop it"
}

unlock_cluster() { exec 9>&-; }

# Prints the mode (api or full) of the selected cluster, or nothing if there is no cluster.
mode_of_cluster() { cat "$CLUSTER_DIR/mode" 2>/dev/null || true; }

cluster_names() {
  local dir
  for dir in "$CLUSTERS_DIR"/*/; do
    if [ -d "$dir" ]; then basename "$dir"; fi
  done
}

# find_slot : prints the slot of the selected cluster, if it has one. Does not depend on the state folder, which a user
# may have removed while the cluster is running.
find_slot() {
  local entry
  for entry in "$SLOTS_DIR"/*; do
    if [ -f "$entry" ] && [ "$(cat "$entry")" = "$CLUSTER_DIR" ]; then
      basename "$entry"
      return
    fi
  done
}

# take_slot : reserves a slot for the selected cluster and prints it.
take_slot() (
  mkdir -p "$SLOTS_DIR"
  exec 8>"$SLOTS_DIR.lock"
  flock 8
  local slot owner
  for ((slot = 0; slot <= LAST_SLOT; slot++)); do
    owner=$(cat "$SLOTS_DIR/$slot" 2>/dev/null || true)
    if [ -n "$owner" ] && [ "$owner" != "$CLUSTER_DIR" ]; then continue; fi
    if [ -z "$owner" ] && [ -n "$(ip -4 -o addr show to "10.200.$slot.0/24")" ]; then continue; fi
    echo "$CLUSTER_DIR" >"$SLOTS_DIR/$slot"
    echo "$slot"
    return
  done
  die "cluster $CLUSTER_NAME: all $((LAST_SLOT + 1)) slots are taken ($SLOTS_DIR)" "fix: stop clusters: hack/cluster down --all"
)

release_slot() { rm -f "$SLOTS_DIR/$1"; }

# use_slot SLOT : sets the addresses of a full cluster. It uses the usual ports, because it has its own network
# namespace.
use_slot() {
  SLOT=$1
  ADDRESS=10.200.$SLOT.1
  HOST_ADDRESS=10.200.$SLOT.254
  POD_SUBNET=10.201.$SLOT.0/24
  SERVICE_SUBNET=10.202.$SLOT.0/24
  SERVICE_ADDRESS=10.202.$SLOT.1
  NETNS=agentloop-$SLOT
  INSIDE=(nsenter "--net=/run/netns/$NETNS" --)
  API_PORT=6443 ETCD_PORT=2379 ETCD_PEER_PORT=2380
}

# take_ports : chooses free ports for an API-only cluster and reserves them in its folder until the cluster is removed.
# They are below the range that the kernel uses for outgoing connections.
take_ports() {
  ADDRESS=127.0.0.1
  SERVICE_SUBNET=10.202.255.0/24
  SERVICE_ADDRESS=10.202.255.1
  INSIDE=()
  (
    flock 8
    local busy port ports=()
    busy=" $(ss -Hltn | awk '{ sub(/.*:/, "", $4); printf "%s ", $4 }') $(cat "$CLUSTERS_DIR"/*/ports 2>/dev/null || true) "
    while [ ${#ports[@]} -lt 3 ]; do
      port=$((20000 + RANDOM % 10000))
      if [[ $busy == *" $port "* ]]; then continue; fi
      busy+="$port "
      ports+=("$port")
    done
    echo " ${ports[*]} " >"$CLUSTER_DIR/ports"
  ) 8>"$AGENTLOOP_STATE/locks/.ports"
  read -r API_PORT ETCD_PORT ETCD_PEER_PORT <"$CLUSTER_DIR/ports"
}

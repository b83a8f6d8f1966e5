# shellcheck shell=bash
# The one node of a full cluster: containerd, kubelet, kube-proxy.

# The path of a Unix socket has at most 108 bytes; those of the kubelet and containerd are in the cluster's folder.
require_short_path() {
  if [ "$1" = full ] && [ ${#CLUSTER_DIR} -gt 65 ]; then
    die "cluster $CLUSTER_NAME: the path $CLUSTER_DIR is too long for sockets (${#CLUSTER_DIR} > 65 characters)" \
      "fix: use a shorter name, or set AGENTLOOP_STATE to a shorter path"
  fi
}

containerd_socket() { echo "$CLUSTER_DIR/containerd/run/containerd.sock"; }

ctr() { "$(tool ctr)" --address "$(containerd_socket)" --namespace k8s.io "$@"; }

# restrict_oom_score_adj: without CAP_SYS_RESOURCE, processes may not lower their score, and no sandbox could start.
write_containerd_config() {
  cat >"$CLUSTER_DIR/containerd/config.toml" <<TOML
version = 3
root = "$CLUSTER_DIR/containerd/root"
state = "$CLUSTER_DIR/containerd/run"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]

[grpc]
address = "$(containerd_socket)"

[plugins."io.containerd.internal.v1.opt"]
path = "$CLUSTER_DIR/containerd/opt"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni", "/opt/cni/bin"]
conf_dir = "$CLUSTER_DIR/cni"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "localhost/pause:1"

[plugins."io.containerd.cri.v1.images".registry]
config_path = "$(registries_folder)"
TOML
}

write_cni_config() {
  mkdir -p "$CLUSTER_DIR/cni"
  cat >"$CLUSTER_DIR/cni/10-pods.conflist" <<JSON
{
  "cniVersion": "1.0.0",
  "name": "$NETNS",
  "plugins": [{
    "type": "bridge",
    "bridge": "pods",
    "isGateway": true,
    "hairpinMode": true,
    "ipam": {
      "type": "host-local",
      "dataDir": "$CLUSTER_DIR/cni/addresses",
      "ranges": [[{"subnet": "$POD_SUBNET"}]],
      "routes": [{"dst": "0.0.0.0/0"}]
    }
  }]
}
JSON
}

start_containerd() {
  mkdir -p "$CLUSTER_DIR/containerd"
  write_containerd_config
  write_cni_config
  start_daemon containerd --config "$CLUSTER_DIR/containerd/config.toml"
}

write_kubelet_config() {
  local resolv=/etc/resolv.conf
  # With systemd-resolved, /etc/resolv.conf names a loopback address, which pods cannot use.
  if [ -e /run/systemd/resolve/resolv.conf ]; then resolv=/run/systemd/resolve/resolv.conf; fi
  cat >"$CLUSTER_DIR/kubelet/config.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $ADDRESS
containerRuntimeEndpoint: unix://$(containerd_socket)
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $PKI/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: $PKI/kubelet-server.crt
tlsPrivateKeyFile: $PKI/kubelet-server.key
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failSwapOn: false
localStorageCapacityIsolation: false
evictionHard: {memory.available: 1%, nodefs.available: 1%, imagefs.available: 1%}
podLogsDir: $CLUSTER_DIR/pod-logs
volumePluginDir: $CLUSTER_DIR/kubelet/volume-plugins
resolvConf: $resolv
maxPods: 200
registryPullQPS: 0
serializeImagePulls: false
YAML
}

start_kubelet() {
  mkdir -p "$CLUSTER_DIR/kubelet" "$CLUSTER_DIR/pod-logs"
  write_kubelet_config
  start_daemon kubelet --config "$CLUSTER_DIR/kubelet/config.yaml" --root-dir "$CLUSTER_DIR/kubelet" \
    --cert-dir "$PKI" --kubeconfig "$PKI/kubelet.kubeconfig" --hostname-override "$NODE" --node-ip "$ADDRESS"
}

start_kube_proxy() {
  start_daemon kube-proxy --kubeconfig "$PKI/kube-proxy.kubeconfig" --hostname-override "$NODE" --proxy-mode nftables \
    --cluster-cidr "$POD_SUBNET" --conntrack-max-per-core 0
}

node_is_ready() {
  [ "$(kube get node "$NODE" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' 2>/dev/null)" = True ]
}

wait_for_node() { wait_for_daemon 60 kubelet "the node $NODE is Ready" node_is_ready; }

# The node may still be Ready from before, so this asks the restarted kubelet itself. It can serve its pods (logs, exec)
# only when it knows them.
kubelet_knows_its_pods() {
  local bound known
  bound=$(kube get pods --all-namespaces --field-selector "spec.nodeName=$NODE" --output name) || return 1
  known=$(kube get --raw "/api/v1/nodes/$NODE/proxy/pods") || return 1
  [ -z "$bound" ] || [[ $known == *'"containers":'* ]]
}

node_stop() {
  if ! is_running kubelet; then
    say "cluster $CLUSTER_NAME: the kubelet is not running: nothing to do"
    return
  fi
  kill_daemon kubelet
  say "cluster $CLUSTER_NAME: the kubelet is killed; its containers keep running, and the node becomes NotReady within a minute"
}

node_start() {
  if is_running kubelet; then
    say "cluster $CLUSTER_NAME: the kubelet is running: nothing to do"
    return
  fi
  attach
  start_kubelet
  wait_for_daemon 60 kubelet "it knows its pods" kubelet_knows_its_pods
  wait_for_node
  say "cluster $CLUSTER_NAME: the kubelet is running again"
}

# === removing containers ===

# container_ids : from containerd's folders, and from the children of shims if a user removed the folders.
container_ids() {
  local folder shim child
  for folder in "$CLUSTER_DIR"/containerd/run/io.containerd.runtime.v2.task/k8s.io/*/; do
    if [ -d "$folder" ]; then basename "$folder"; fi
  done
  for shim in $(pids_of containerd-shim-runc-v2); do
    for child in $(pgrep -P "$shim"); do
      sed -n 's|.*/k8s.io/\([0-9a-f]\{64\}\)$|\1|p' "/proc/$child/cgroup" 2>/dev/null || true
    done
  done
}

# cgroup_folders ID… : prints the folders in all hierarchies, the deepest first.
cgroup_folders() {
  local id folder
  for id in "$@"; do
    for folder in "/sys/fs/cgroup/k8s.io/$id" /sys/fs/cgroup/*/"k8s.io/$id"; do
      if [ -d "$folder" ]; then find "$folder" -depth -type d; fi
    done
  done
}

contained_pids() {
  local folder
  while read -r folder; do cat "$folder/cgroup.procs" 2>/dev/null || true; done < <(cgroup_folders "$@") | sort -u
}

nothing_contained() {
  local pids
  mapfile -t pids < <(contained_pids "$@")
  if [ ${#pids[@]} -eq 0 ]; then return 0; fi
  kill -KILL "${pids[@]}" 2>/dev/null || true
  return 1
}

# remove_containers : also removes their shims, cgroups, sockets and links.
remove_containers() {
  local ids sockets folder link id
  mapfile -t ids < <(container_ids | sort -u)
  mapfile -t sockets < <(cat "$CLUSTER_DIR"/containerd/run/io.containerd.runtime.v2.task/*/*/bootstrap.json 2>/dev/null |
    grep -o '/[^"]*/containerd/s/[0-9a-f]*')
  kill_daemon containerd-shim-runc-v2
  poll 20 nothing_contained "${ids[@]}" ||
    die "cluster $CLUSTER_NAME: processes of its containers cannot be killed: $(contained_pids "${ids[@]}" | tr '\n' ' ')" \
      "to see their state: ps -o pid,stat,wchan,args -p PID"
  if [ ${#sockets[@]} -gt 0 ]; then rm -f "${sockets[@]}"; fi
  while read -r folder; do rmdir "$folder" 2>/dev/null || true; done < <(cgroup_folders "${ids[@]}")
  for id in "${ids[@]}"; do rm -f /var/lib/cni/results/*-"$id"-*; done
  # The only folder of the kubelet that cannot be configured.
  for link in /var/log/containers/*; do
    if [[ $(readlink "$link") == "$CLUSTER_DIR/"* ]]; then rm -f "$link"; fi
  done
}

# shellcheck shell=bash
# Removing every trace of the selected cluster, whether it was taken down or killed.

# exists_somewhere : is anything of it left, be it only a process or a mount?
exists_somewhere() {
  [ -e "$CLUSTER_DIR" ] || [ -n "$(daemons)" ] || [ -n "$(find_slot)" ]
}

# In this order, so that nothing is restarted or recreated meanwhile.
tear_down() {
  local slot program
  slot=$(find_slot)
  if [ -n "$slot" ] && [ "$(id -u)" != 0 ]; then
    die "cluster $CLUSTER_NAME was started by root" "take it down as root: hack/cluster down --name $CLUSTER_NAME"
  fi
  for program in kubelet local-path-provisioner kube-proxy kube-scheduler kube-controller-manager kube-apiserver etcd containerd; do
    kill_daemon "$program"
  done
  if [ -n "$slot" ]; then
    use_slot "$slot"
    remove_containers
  fi
  unmount_all
  # Other file systems are never entered: a mount that came back must not lose its files.
  rm -rf --one-file-system "$CLUSTER_DIR" ||
    die "cluster $CLUSTER_NAME: cannot remove $CLUSTER_DIR" "see what holds it: findmnt -R $CLUSTER_DIR; lsof +D $CLUSTER_DIR"
  if [ -n "$slot" ]; then
    remove_network
    release_slot "$slot"
  fi
}

mounts_below() {
  # Escapes of mountinfo (\040 for a blank) are undone; the deepest come first.
  awk '{ print $5 }' /proc/self/mountinfo | while read -r mount; do printf '%b\n' "$mount"; done |
    awk -v dir="$CLUSTER_DIR/" 'index($0, dir) == 1' | sort -r
}

unmount_all() {
  local mount
  while read -r mount; do
    umount --lazy "$mount" || true
  done < <(mounts_below)
  if [ -n "$(mounts_below)" ]; then
    die "cluster $CLUSTER_NAME: cannot unmount $(mounts_below | head -n 1)" "unmount it (umount -l), then: hack/cluster down --name $CLUSTER_NAME"
  fi
}

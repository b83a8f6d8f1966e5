# shellcheck shell=bash
# Removes everything of the selected cluster, whether it was stopped or killed.

# exists_somewhere : succeeds if any files, processes or network of the cluster are left.
exists_somewhere() {
  [ -e "$CLUSTER_DIR" ] || [ -n "$(daemons)" ] || [ -n "$(find_slot)" ]
}

# In this order, so that nothing is restarted or recreated in the meantime.
tear_down() {
  local slot program
  slot=$(find_slot)
  if [ -n "$slot" ] && [ "$(id -u)" != 0 ]; then
    die "cluster $CLUSTER_NAME was started by root" "fix: stop it as root: hack/cluster down --name $CLUSTER_NAME"
  fi
  for program in kubelet local-path-provisioner kube-proxy kube-scheduler kube-controller-manager kube-apiserver etcd containerd docker-registry; do
    kill_daemon "$program"
  done
  if [ -n "$slot" ]; then
    use_slot "$slot"
    remove_containers
  fi
  unmount_all
  # Never enters other file systems: if something is mounted again, its files must not be lost.
  rm -rf --one-file-system "$CLUSTER_DIR" ||
    die "cluster $CLUSTER_NAME: cannot remove $CLUSTER_DIR" "to see what uses it: findmnt -R $CLUSTER_DIR; lsof +D $CLUSTER_DIR"
  if [ -n "$slot" ]; then
    remove_network
    release_slot "$slot"
  fi
}

mounts_below() {
  # Decodes the escapes of mountinfo (\040 for a space); prints the deepest first.
  awk '{ print $5 }' /proc/self/mountinfo | while read -r mount; do printf '%b\n' "$mount"; done |
    awk -v dir="$CLUSTER_DIR/" 'index($0, dir) == 1' | sort -r
}

unmount_all() {
  local mount
  while read -r mount; do
    umount --lazy "$mount" || true
  done < <(mounts_below)
  if [ -n "$(mounts_below)" ]; then
    die "cluster $CLUSTER_NAME: cannot unmount $(mounts_below | head -n 1)" "fix: unmount it (umount -l), then run: hack/cluster down --name $CLUSTER_NAME"
  fi
}

# shellcheck shell=bash
# A full cluster runs in its own network namespace: its kube-proxy and bridge cannot conflict with those of other
# clusters or of the machine, and all of them disappear with the namespace.
#
#   machine  <- veth ->  10.200.SLOT.1, the node and the API server  <- bridge ->  pods

network_command() {
  "$@" 2>>"$CLUSTER_DIR/logs/network.log" || {
    tail_of "$CLUSTER_DIR/logs/network.log"
    die "cluster $CLUSTER_NAME: this command failed, see above: $*" "it needs root with CAP_NET_ADMIN and CAP_SYS_ADMIN, and a kernel with veth and nftables"
  }
}

create_network() {
  remove_network
  network_command ip netns add "$NETNS"
  network_command ip link add "$NETNS" type veth peer name eth0 netns "$NETNS"
  network_command ip addr add "$HOST_ADDRESS/24" dev "$NETNS"
  network_command ip link set "$NETNS" up
  network_command "${INSIDE[@]}" ip link set lo up
  network_command "${INSIDE[@]}" ip addr add "$ADDRESS/24" dev eth0
  network_command "${INSIDE[@]}" ip link set eth0 up
  network_command "${INSIDE[@]}" ip route add default via "$HOST_ADDRESS"
  network_command "${INSIDE[@]}" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
  # Tests on the machine can then reach pods, and pods can reach servers on the machine.
  network_command ip route add "$POD_SUBNET" via "$ADDRESS"
  allow_internet_access
}

# Lets pods and image pulls reach what the machine can reach, if its firewall allows that. Only real agents need this,
# so a failure is not an error.
allow_internet_access() {
  nft -f - 2>>"$CLUSTER_DIR/logs/network.log" <<NFT || say "cluster $CLUSTER_NAME: pods have no internet access (see logs/network.log)"
table ip $NETNS {
  chain postrouting {
    type nat hook postrouting priority srcnat;
    ip saddr { 10.200.$SLOT.0/24, $POD_SUBNET } ip daddr != { 10.200.$SLOT.0/24, $POD_SUBNET } masquerade
  }
}
NFT
  if [ "$(cat /proc/sys/net/ipv4/ip_forward)" = 0 ]; then
    say "cluster $CLUSTER_NAME: setting net.ipv4.ip_forward=1 on this machine, for the pods' internet access"
    echo 1 >/proc/sys/net/ipv4/ip_forward || true
  fi
}

remove_network() {
  nft delete table ip "$NETNS" 2>/dev/null || true
  ip link delete "$NETNS" 2>/dev/null || true
  ip netns delete "$NETNS" 2>/dev/null || true
}

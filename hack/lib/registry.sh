# shellcheck shell=bash
# A registry beside the node of a full cluster, for tests of what users pull.

# containerd reads this folder at every pull.
registries_folder() { echo "$CLUSTER_DIR/containerd/registries"; }

# cluster_registry HOST : starts the registry unless it is running, and lets the node pull the images of HOST from it.
# Prints its address. It has no TLS.
cluster_registry() {
  local folder host place="$ADDRESS:5000"
  "$AGENTLOOP_HACK_DIR/prerequisites" registry
  if ! is_running docker-registry; then
    write_registry_config "$place"
    start_daemon docker-registry serve "$CLUSTER_DIR/registry/config.yml"
    wait_for_daemon 30 docker-registry "it answers" registry_answers "$ADDRESS" 5000
  fi
  for host in "$1" "$place"; do
    folder=$(registries_folder)/$host
    mkdir -p "$folder"
    printf '%s\n' "[host.\"http://$place\"]" 'capabilities = ["pull", "resolve"]' >"$folder/hosts.toml"
  done
  say "cluster $CLUSTER_NAME: images of $1 are pulled from http://$place"
  echo "$place"
}

write_registry_config() {
  mkdir -p "$CLUSTER_DIR/registry"
  cat >"$CLUSTER_DIR/registry/config.yml" <<YAML
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: $CLUSTER_DIR/registry/data}}
http: {addr: $1}
YAML
}

registry_answers() {
  exec 7<>"/dev/tcp/$1/$2" || return 1
  exec 7>&-
}

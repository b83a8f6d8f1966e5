# shellcheck shell=bash
# Dynamic volumes as in kind: the StorageClass "standard", with folders in the cluster's folder.

readonly STORAGE_NAMESPACE=local-path-storage

volume_config() {
  cat <<JSON
{"nodePathMap": [{"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": ["$CLUSTER_DIR/volumes"]}]}
JSON
}

# The provisioner reads config.json from a file, and the rest from the ConfigMap. Volumes are created with mode 0777,
# because the user of the pod is not known yet.
storage_manifest() {
  cat <<YAML
apiVersion: v1
kind: Namespace
metadata: {name: $STORAGE_NAMESPACE}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: helper, namespace: $STORAGE_NAMESPACE}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: standard
  annotations: {storageclass.kubernetes.io/is-default-class: "true"}
provisioner: rancher.io/local-path
volumeBindingMode: WaitForFirstConsumer
reclaimPolicy: Delete
---
apiVersion: v1
kind: ConfigMap
metadata: {name: local-path, namespace: $STORAGE_NAMESPACE}
data:
  config.json: '$(volume_config)'
  setup: |
    #!/bin/sh
    set -eu
    mkdir -m 0777 -p "\$VOL_DIR"
    chmod 0777 "\$VOL_DIR"
  teardown: |
    #!/bin/sh
    set -eu
    rm -rf "\$VOL_DIR"
  helperPod.yaml: |
    apiVersion: v1
    kind: Pod
    metadata: {name: helper}
    spec:
      automountServiceAccountToken: false
      tolerations: [{operator: Exists}]
      containers:
      - name: helper
        image: localhost/busybox:1
        imagePullPolicy: Never
YAML
}

start_storage() {
  mkdir -p "$CLUSTER_DIR/volumes" "$CLUSTER_DIR/storage"
  chmod 0755 "$CLUSTER_DIR/volumes"
  volume_config >"$CLUSTER_DIR/storage/config.json"
  storage_manifest | kube apply --filename - >/dev/null ||
    die "cluster $CLUSTER_NAME: the API server refused the objects of the volume provisioner" "see its message above"
  start_daemon local-path-provisioner start \
    --kubeconfig "$PKI/admin.kubeconfig" --config "$CLUSTER_DIR/storage/config.json" --namespace "$STORAGE_NAMESPACE" \
    --helper-image localhost/busybox:1 --configmap-name local-path --service-account-name helper
}

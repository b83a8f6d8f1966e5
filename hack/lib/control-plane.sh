# shellcheck shell=bash
# etcd, the API server and the controllers of the selected cluster.

start_etcd() {
  # Without fsync, which makes every write faster: nothing needs the state after the cluster has stopped.
  start_daemon etcd --data-dir "$CLUSTER_DIR/etcd" --unsafe-no-fsync --log-level warn --name "$CLUSTER_NAME" \
    --listen-client-urls "http://127.0.0.1:$ETCD_PORT" --advertise-client-urls "http://127.0.0.1:$ETCD_PORT" \
    --listen-peer-urls "http://127.0.0.1:$ETCD_PEER_PORT" --initial-advertise-peer-urls "http://127.0.0.1:$ETCD_PEER_PORT" \
    --initial-cluster "$CLUSTER_NAME=http://127.0.0.1:$ETCD_PEER_PORT"
}

start_apiserver() {
  local options=()
  if [ "$CLUSTER_MODE" = full ]; then
    # By address: no host can resolve the node's name.
    options+=(--kubelet-preferred-address-types InternalIP
      --kubelet-certificate-authority "$PKI/ca.crt"
      --kubelet-client-certificate "$PKI/kubelet-client.crt" --kubelet-client-key "$PKI/kubelet-client.key")
  else
    # A loopback address cannot be an endpoint of the Service "kubernetes".
    options+=(--endpoint-reconciler-type none)
  fi
  if [ -n "$CLUSTER_LEAN" ]; then
    options+=(--enable-priority-and-fairness=false)
  else
    options+=(--audit-policy-file "$AGENTLOOP_HACK_DIR/lib/audit-policy.yaml" --audit-log-path "$CLUSTER_DIR/logs/audit.log"
      --audit-log-maxsize 2000 --audit-log-maxbackup 1)
  fi
  start_daemon kube-apiserver --etcd-servers "http://127.0.0.1:$ETCD_PORT" \
    --bind-address "$ADDRESS" --advertise-address "$ADDRESS" --secure-port "$API_PORT" \
    --service-cluster-ip-range "$SERVICE_SUBNET" --allow-privileged \
    --tls-cert-file "$PKI/apiserver.crt" --tls-private-key-file "$PKI/apiserver.key" --client-ca-file "$PKI/ca.crt" \
    --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
    --service-account-issuer https://kubernetes.default.svc.cluster.local \
    --service-account-key-file "$PKI/service-accounts.pub" --service-account-signing-key-file "$PKI/service-accounts.key" \
    "${options[@]}"
}

# With the default request rate, it takes five seconds to start.
start_controllers() {
  local controllers='*'
  # If tests play the kubelet, nothing renews a node's lease, and nodes must stay as the tests set them.
  if [ "$CLUSTER_MODE" = api ]; then controllers='*,-node-lifecycle-controller'; fi
  if [ -n "$CLUSTER_LEAN" ]; then
    controllers='garbage-collector-controller,namespace-controller,serviceaccount-controller,root-ca-certificate-publisher-controller'
  fi
  start_daemon kube-controller-manager --kubeconfig "$PKI/kube-controller-manager.kubeconfig" --leader-elect=false \
    --secure-port 0 --kube-api-qps 500 --kube-api-burst 1000 --controllers "$controllers" --use-service-account-credentials \
    --root-ca-file "$PKI/ca.crt" --service-account-private-key-file "$PKI/service-accounts.key" \
    --cluster-signing-cert-file "$PKI/ca.crt" --cluster-signing-key-file "$PKI/ca.key"
}

start_scheduler() {
  start_daemon kube-scheduler --kubeconfig "$PKI/kube-scheduler.kubeconfig" --leader-elect=false --secure-port 0
}

api_is_ready() { kube get --raw /readyz; }

wait_for_api() {
  wait_for_daemon 60 kube-apiserver "it is ready (/readyz at https://$ADDRESS:$API_PORT)" api_is_ready
}

# Until it exists, the API server refuses all pods of the namespace.
wait_for_service_account() {
  wait_for_daemon 30 kube-controller-manager "the ServiceAccount default/default exists" \
    kube get serviceaccount default --namespace default
}

start_control_plane() {
  start_etcd
  start_apiserver
  wait_for_api
  start_controllers
  if [ "$CLUSTER_MODE" = full ]; then start_scheduler; fi
}

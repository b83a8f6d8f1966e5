# shellcheck shell=bash
# Certificates and kubeconfigs of the selected cluster, created with it.

readonly KEY_OPTIONS=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)

run_openssl() {
  openssl "$@" 2>>"$CLUSTER_DIR/logs/openssl.log" || {
    tail_of "$CLUSTER_DIR/logs/openssl.log"
    die "cluster $CLUSTER_NAME: openssl $1 failed, see above" "it needs OpenSSL 1.1.1 or newer; this is $(openssl version)"
  }
}

create_authority() {
  run_openssl req -x509 "${KEY_OPTIONS[@]}" -days 3650 -subj "/CN=agentloop-$CLUSTER_NAME" \
    -keyout "$PKI/ca.key" -out "$PKI/ca.crt"
  run_openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$PKI/service-accounts.key"
  run_openssl pkey -in "$PKI/service-accounts.key" -pubout -out "$PKI/service-accounts.pub"
}

# create_certificate FILE SUBJECT USAGE [ALTERNATIVE_NAMES]
create_certificate() {
  run_openssl req -new "${KEY_OPTIONS[@]}" -subj "$2" -keyout "$PKI/$1.key" -out "$PKI/$1.csr"
  {
    echo "keyUsage = critical, digitalSignature"
    echo "extendedKeyUsage = $3"
    if [ -n "${4:-}" ]; then echo "subjectAltName = $4"; fi
  } >"$PKI/$1.ext"
  run_openssl x509 -req -in "$PKI/$1.csr" -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -days 3650 \
    -set_serial "0x$(openssl rand -hex 8)" -extfile "$PKI/$1.ext" -out "$PKI/$1.crt"
  rm "$PKI/$1.csr" "$PKI/$1.ext"
}

# write_kubeconfig FILE CERTIFICATE
write_kubeconfig() {
  cat >"$1" <<YAML
apiVersion: v1
kind: Config
clusters:
- name: agentloop-$CLUSTER_NAME
  cluster:
    server: https://$ADDRESS:$API_PORT
    certificate-authority-data: $(base64 -w 0 "$PKI/ca.crt")
users:
- name: $2
  user:
    client-certificate-data: $(base64 -w 0 "$PKI/$2.crt")
    client-key-data: $(base64 -w 0 "$PKI/$2.key")
contexts:
- name: agentloop-$CLUSTER_NAME
  context:
    cluster: agentloop-$CLUSTER_NAME
    user: $2
current-context: agentloop-$CLUSTER_NAME
YAML
}

# create_identity NAME SUBJECT : creates a client certificate and the kubeconfig $PKI/NAME.kubeconfig.
create_identity() {
  create_certificate "$1" "$2" clientAuth
  write_kubeconfig "$PKI/$1.kubeconfig" "$1"
}

create_pki() {
  PKI=$CLUSTER_DIR/pki
  mkdir -p "$PKI"
  create_authority
  create_certificate apiserver /CN=kube-apiserver serverAuth \
    "IP:$ADDRESS,IP:127.0.0.1,IP:$SERVICE_ADDRESS,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
  create_identity admin /O=system:masters/CN=admin
  create_identity kube-controller-manager /CN=system:kube-controller-manager
  if [ "$CLUSTER_MODE" = full ]; then
    create_certificate kubelet-client /O=system:masters/CN=kube-apiserver clientAuth
    create_certificate kubelet-server "/CN=$NODE" serverAuth "IP:$ADDRESS,DNS:$NODE"
    create_identity kube-scheduler /CN=system:kube-scheduler
    create_identity kube-proxy /CN=system:kube-proxy
    create_identity kubelet "/O=system:nodes/CN=system:node:$NODE"
  fi
}

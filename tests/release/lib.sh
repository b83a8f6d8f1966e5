# shellcheck shell=bash
# What the steps of tests/release/run share. The script sets scratch, release, version, registry, key and KUBECTL.
# shellcheck disable=SC2154,SC2034

readonly CLUSTER=test-release
# The registry that the release is built for. The node pulls its images from the registry beside it.
readonly HOST=registry.agentloop.test
readonly OPERATOR=agentloop-system TEAM=team-release

# The commit before releases could be built.
readonly BASE=${AGENTLOOP_RELEASE_BASE:-76b0e350b3536314409465b58c7c5c801014c26f}

kubectl() { "$KUBECTL" --request-timeout=30s "$@"; }

# run_helm helm|helm3 ARGUMENT…
run_helm() {
  local program
  program=$("$root/hack/tools/build" --bin "$1")
  shift
  "$program" "$@"
}

install_release() {
  local tool=$1
  shift
  run_helm "$tool" install agentloop "oci://$registry/charts/agentloop" --version "$version" --plain-http \
    --namespace "$OPERATOR" --create-namespace --wait --timeout 3m "$@"
}

upgrade_to_release() {
  run_helm helm upgrade agentloop "oci://$registry/charts/agentloop" --version "$version" --plain-http \
    --namespace "$OPERATOR" --reset-values --wait --timeout 3m >/dev/null
}

build_release() {
  local arch=${AGENTLOOP_RELEASE_ARCH:-$(host_arch)}
  "$root/hack/release" --registry "$HOST" --source https://agentloop.test/repository --arch "$arch" --out "$1" "$version"
}

publish() { "$root/hack/publish" --to "$registry" --plain-http "$1"; }

# cosign_once : whether it succeeds; its output goes to the log.
cosign_once() { "$("$root/hack/tools/build" --bin cosign)" "$@" >"$scratch/cosign.log" 2>&1; }

verify_blob() {
  cosign_once verify-blob --key "$key.pub" --insecure-ignore-tlog --bundle "$release/$1.sigstore.json" "$release/$1"
}

# verify_reference KEY REFERENCE
verify_reference() { cosign_once verify --key "$1" --insecure-ignore-tlog --allow-http-registry "$2"; }

# check_labels IMAGE : labels that registries and scanners read, and a user that is not root.
check_labels() {
  local config label
  config=$(skopeo inspect --tls-verify=false --config "docker://$registry/$1:$version")
  for label in title description version revision source licenses created; do
    jq -e --arg name "org.opencontainers.image.$label" '.config.Labels[$name] | length > 0' <<<"$config" >/dev/null ||
      die "the image $1 has no label $label"
  done
  [ "$(jq -r .config.User <<<"$config")" = 65532:65532 ] || die "the image $1 does not run as user 65532"
}

# === the cluster ===

create_team() {
  kubectl create namespace "$TEAM" >&2
  kubectl label namespace "$TEAM" pod-security.kubernetes.io/enforce=restricted >/dev/null
}

# apply_task NAME SCRIPT : a task whose iterations are done if the script succeeds.
apply_task() {
  kubectl apply --filename - >&2 <<YAML
apiVersion: agentloop.dev/v1alpha1
kind: AgentTask
metadata: {name: $1, namespace: $TEAM}
spec:
  maxIterations: 5
  breaker: {noChangeThreshold: 9, sameErrorThreshold: 9}
  completion: {policy: ExitCode}
  workspace:
    volumeClaimTemplate:
      spec:
        accessModes: [ReadWriteOnce]
        resources: {requests: {storage: 10Mi}}
  template:
    spec:
      securityContext: {runAsNonRoot: true, runAsUser: 65532, fsGroup: 65532, seccompProfile: {type: RuntimeDefault}}
      terminationGracePeriodSeconds: 2
      containers:
        - name: agent
          image: busybox:1
          command: [sh, -c, $(jq --null-input --arg script "$2" '$script')]
          securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
YAML
}

phase() { kubectl --namespace "$1" get agt "$2" --output 'jsonpath={.status.phase}'; }
iterations() { kubectl --namespace "$TEAM" get agt "$1" --output 'jsonpath={.status.iterations}'; }
is_in_phase() { [ "$(phase "$1" "$2")" = "$3" ]; }

# wait_for_phase NAMESPACE TASK PHASE SECONDS
wait_for_phase() {
  poll "$4" is_in_phase "$1" "$2" "$3" || die "task $2 is in phase '$(phase "$1" "$2")' after $4 s, not $3"
}

# pod_of TASK ITERATION : the name of its running pod.
pod_of() {
  kubectl --namespace "$TEAM" get pods --selector "agentloop.dev/task=$1,agentloop.dev/iteration=$2" \
    --output 'jsonpath={range .items[?(@.status.phase=="Running")]}{.metadata.name}{end}'
}

has_running_pod() { [ -n "$(pod_of "$@")" ]; }

running_pod() {
  poll 90 has_running_pod "$1" "$2" || die "task $1 has no running pod for iteration $2 after 90 s"
  pod_of "$1" "$2"
}

has_ended() { [[ $(kubectl --namespace "$TEAM" get pod "$1" --output 'jsonpath={.status.phase}') =~ ^(Succeeded|Failed)$ ]]; }
has_counted() { [ "$(iterations "$1")" -ge "$2" ]; }

# end_agent ITERATION POD
end_agent() { kubectl --namespace "$TEAM" exec "$2" --container agent -- touch "/workspace/end-$1"; }

# finish TASK ITERATION POD : ends the iteration, which must still be the one of this pod.
finish() {
  [ "$(pod_of "$1" "$2")" = "$3" ] || die "the pod $3 of iteration $2 is gone"
  end_agent "$2" "$3"
  poll 90 has_counted "$1" "$2" || die "task $1 has counted $(iterations "$1") iterations after 90 s, not $2"
  one_pod_per_iteration "$1" "$2"
}

# one_pod_per_iteration TASK COUNT : pods of the first COUNT iterations; the next one may exist already.
one_pod_per_iteration() {
  local pods
  pods=$(kubectl --namespace "$TEAM" get pods --selector "agentloop.dev/task=$1" \
    --output 'jsonpath={range .items[*]}{.metadata.labels.agentloop\.dev/iteration}{"\n"}{end}' | sort -n | head -n "$2" | xargs)
  [ "$pods" = "$(seq 1 "$2" | xargs)" ] || die "task $1 has pods for the iterations '$pods', not for 1 to $2 once each"
}

finalizers_of_pods() {
  kubectl get pods --all-namespaces --selector agentloop.dev/task --output 'jsonpath={.items[*].metadata.finalizers}'
}

# check_images_of_pods NAMESPACE REGISTRY : operator and runner were pulled by the digests of the release.
check_images_of_pods() {
  local digest image
  digest=$(sed -n 's/.*\/agentloop@//p' "$release/images.txt")
  image=$(kubectl --namespace "$OPERATOR" get pods --selector app.kubernetes.io/component=controller \
    --output 'jsonpath={.items[0].spec.containers[0].image} {.items[0].status.containerStatuses[0].imageID}')
  # The second one has the name under which the node first pulled this digest.
  [[ $image == "$2/agentloop@$digest "*"/agentloop@$digest" ]] || die "the operator runs $image, not $2/agentloop@$digest"
  digest=$(sed -n 's/.*\/agentloop-runner@//p' "$release/images.txt")
  [[ $(kubectl --namespace "$1" get pods --selector agentloop.dev/task --output json) == *"$2/agentloop-runner@$digest"* ]] ||
    die "the pods of tasks do not use the runner $2/agentloop-runner@$digest"
}

only_crd_is_left() {
  local left
  left=$(kubectl get --all-namespaces --output name --selector app.kubernetes.io/instance=agentloop \
    deploy,job,sa,cm,svc,role,rolebinding,clusterrole,clusterrolebinding,crd)
  [ "$left" = customresourcedefinition.apiextensions.k8s.io/agenttasks.agentloop.dev ] || die "the uninstall left: $left"
}

# The next step starts with an empty cluster again.
remove_rest() {
  kubectl delete crd agenttasks.agentloop.dev --ignore-not-found --timeout 60s >&2
  kubectl delete namespace "$OPERATOR" "$TEAM" --ignore-not-found --timeout 120s >&2
  kubectl --namespace default delete pods --all --timeout 60s >&2
}

# Prints what a maintainer would look at first.
explain() {
  tail_of "$scratch/cosign.log"
  kubectl get agt,pods --all-namespaces --output wide
  kubectl get events --all-namespaces --sort-by .metadata.creationTimestamp | tail -n 20
  kubectl --namespace "$OPERATOR" logs deployment/agentloop --tail 15 | cut -c -300
}

# === the version before ===

# publish_base : builds images and chart of BASE, once, and pushes the images with the tag "base".
publish_base() {
  local cache=$AGENTLOOP_CACHE/release-base/$BASE name
  if [ ! -e "$cache/complete" ]; then build_base "$cache"; fi
  mkdir -p "$scratch/base"
  tar --extract --file "$cache/checkout.tar" --directory "$scratch/base" charts
  run_helm helm3 package "$scratch/base/charts/agentloop" --destination "$scratch/base" >&2
  base_version=$(awk '$1 == "version:" { print $2 }' "$scratch/base/charts/agentloop/Chart.yaml")
  for name in agentloop agentloop-runner; do
    skopeo copy --quiet --dest-tls-verify=false "oci-archive:$cache/$name.tar" "docker://$registry/$name:base" >&2
  done
}

# build_base FOLDER : in this checkout's target folder, so that the dependencies are not compiled again.
build_base() (
  git -C "$root" cat-file -e "$BASE^{commit}" || die "the commit $BASE is missing" "fix: git fetch --unshallow, or set AGENTLOOP_RELEASE_BASE"
  say "building images of $BASE (once)"
  rm -rf "$1"
  mkdir -p "$1" "$scratch/checkout" "$scratch/context"
  git -C "$root" archive --output "$1/checkout.tar" "$BASE"
  tar --extract --file "$1/checkout.tar" --directory "$scratch/checkout"
  export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}
  cd "$scratch/checkout" || exit
  cp "$(static_program agentloop release "$(host_triple)")" "$scratch/context/agentloop"
  cp "$(static_program agentloop-runner runner "$(host_triple)")" "$scratch/context/agentloop-runner"
  for image in operator:agentloop runner:agentloop-runner; do
    "$root/hack/image-build" --file Containerfile --target "${image%:*}" "$HOST/${image#*:}:base" "$scratch/context" "$1/${image#*:}.tar"
  done
  touch "$1/complete"
)

# shellcheck shell=bash
# The parts of a release. hack/release sets version, revision, registry, source, buildable, the folder work, and out in
# it; this file uses them and no others.
# shellcheck disable=SC2154

readonly CARGO_CYCLONEDX=0.5.9
# Their programs, and the stages of the Containerfile.
readonly IMAGES=(agentloop agentloop-runner)
readonly PLUGIN=kubectl-agentloop
declare -A STAGES=([agentloop]=operator [agentloop-runner]=runner)
declare -A PROFILES=([agentloop]=release [agentloop-runner]=runner [$PLUGIN]=release)
declare -A DESCRIPTIONS=(
  [agentloop]="The agentloop operator: runs coding agents in a bounded loop on Kubernetes"
  [agentloop-runner]="The agentloop runner: wraps the agent in every pod of an AgentTask"
)

# build_programs ARCH
build_programs() {
  local triple name program
  triple=$(triple_of "$1")
  mkdir -p "$work/programs/$1"
  for name in "${IMAGES[@]}" "$PLUGIN"; do
    program=$(static_program "$name" "${PROFILES[$name]}" "$triple")
    require_static "$program"
    if [ "$1" = "$(host_arch)" ] && [ "$("$program" --version)" != "$name $version" ]; then
      die "$program is '$("$program" --version)', not '$name $version'"
    fi
    install -m 0755 "$program" "$work/programs/$1/$name"
  done
}

# An image from scratch has no libraries, so a program that needs one fails only when it is started.
require_static() {
  local headers
  headers=$(LC_ALL=C readelf --program-headers "$1")
  if [[ $headers == *INTERP* ]]; then
    die "$1 is not static" "it would not start in its image"
  fi
}

# === the kubectl plugin ===

# An archive for each architecture, and the manifest with which Krew installs them.
build_plugin() {
  local arch folder completion=kubectl_complete-agentloop
  for arch in "${buildable[@]}"; do
    folder=$work/plugin/$arch
    mkdir -p "$folder"
    install -m 0755 "$work/programs/$arch/$PLUGIN" "crates/kubectl/$completion" "$folder/"
    install -m 0644 LICENSE "$folder/"
    archive tgz "$folder" "$work/out/$(plugin_archive "$arch")" "$PLUGIN" "$completion" LICENSE
  done
  write_krew_manifest >"$work/out/krew-agentloop.yaml"
}

plugin_archive() { echo "${PLUGIN}_${version}_linux_$1.tar.gz"; }

write_krew_manifest() {
  local arch name
  cat <<YAML
apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: agentloop
spec:
  version: v$version
  homepage: ${source:-https://localhost}
  shortDescription: Follow, explain and resume loops of coding agents
  description: |
    Shows what the loops of agentloop do, why they stopped and what they changed, and resumes them. It has your own
    rights and needs nothing in the cluster but agentloop.
  platforms:
YAML
  for arch in "${buildable[@]}"; do
    name=$(plugin_archive "$arch")
    cat <<YAML
    - selector:
        matchLabels: {os: linux, arch: $arch}
      uri: ${source:-https://localhost}/releases/download/v$version/$name
      sha256: $(sha256sum "$work/out/$name" | cut -d ' ' -f 1)
      bin: $PLUGIN
      files:
        - {from: $PLUGIN, to: .}
        - {from: LICENSE, to: .}
YAML
  done
}

# === images ===

build_images() {
  local name
  open_store
  for name in "${IMAGES[@]}"; do build_image "$name"; done
}

# build_image NAME : writes an OCI archive with an index of all architectures, and appends its reference with the digest
# of the index to images.txt. Two builds give the same bytes: layers and history have the date of the commit.
build_image() {
  local name=$1 arch label options=() layout=$work/layouts/$1 what="build the image $1"
  while read -r label; do options+=(--label "$label" --annotation "$label"); done < <(labels_of "$name")
  for arch in "${buildable[@]}"; do
    in_store "$what for $arch" bud "${BUILD_OPTIONS[@]}" --file Containerfile --target "${STAGES[$name]}" \
      --identity-label=false --timestamp "$SOURCE_DATE_EPOCH" --platform "linux/$arch" "${options[@]}" \
      --manifest "$name" "$work/programs/$arch"
  done
  mkdir -p "$layout"
  in_store "$what" manifest push "${PUSH_OPTIONS[@]}" --all --format oci "$name" "oci:$layout:$registry/$name:$version"
  archive tar "$layout" "$work/out/image-$name-$version.tar" blobs index.json oci-layout
  echo "$registry/$name@$(jq -er '.manifests[0].digest' "$layout/index.json")" >>"$work/out/images.txt"
}

labels_of() {
  local prefix=org.opencontainers.image
  printf '%s\n' "$prefix.title=$1" "$prefix.description=${DESCRIPTIONS[$1]}" "$prefix.version=$version" \
    "$prefix.revision=$revision" "$prefix.licenses=Apache-2.0" \
    "$prefix.created=$(date --utc --date "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)"
  if [ -n "$source" ]; then printf '%s\n' "$prefix.source=$source" "$prefix.url=$source"; fi
}

# archive tar|tgz FOLDER FILE ENTRY… : the same entries give the same bytes, whoever packs them and when.
archive() {
  local kind=$1 folder=$2 file=$3
  shift 3
  tar --create --directory "$folder" --format ustar --sort name --mtime "@$SOURCE_DATE_EPOCH" --owner 0 --group 0 \
    --numeric-owner --mode u=rwX,go=rX "$@" | if [ "$kind" = tgz ]; then gzip --no-name --best; else cat; fi >"$file"
}

digest_of() { sed -n "s|^$registry/$1@||p" "$work/out/images.txt"; }

# === chart and manifests ===

helm() { "$("$AGENTLOOP_HACK_DIR/tools/build" --bin helm)" "$@"; }

# The chart with the registry and the digests of the images. Helm packs it, because it knows what belongs to a chart;
# it is packed once more, because Helm writes the time of day into the archive.
build_chart() {
  local chart=$work/charts/agentloop
  mkdir -p "$work/charts" "$work/packed"
  cp -R charts/agentloop "$work/charts/"
  awk -v registry="$registry" -v operator="$(digest_of agentloop)" -v runner="$(digest_of agentloop-runner)" '
    /^[a-zA-Z]/ { section = $1 }
    section == "image:" || section == "runner:" {
      if ($1 == "registry:") sub(/registry:.*/, "registry: " registry)
      if ($1 == "digest:") sub(/digest:.*/, "digest: \"" (section == "image:" ? operator : runner) "\"")
    }
    { print }' charts/agentloop/values.yaml >"$chart/values.yaml"
  helm package "$chart" --destination "$work/packed" >/dev/null
  tar --extract --gzip --file "$work/packed/agentloop-$version.tgz" --directory "$work/packed"
  archive tgz "$work/packed" "$work/out/agentloop-$version.tgz" agentloop
  require_images_in "$work/out/agentloop-$version.tgz"
}

# The values are edited as text, so what the chart renders is what counts.
require_images_in() {
  local reference
  helm template agentloop "$1" >"$work/rendered"
  while read -r reference; do
    grep -qF "$reference" "$work/rendered" || die "the chart does not use the image $reference" "it is a bug of build_chart"
  done <"$work/out/images.txt"
}

readonly NAMESPACE=agentloop-system

# For users without Helm. uninstall.yaml has what Helm would run before an uninstall.
build_manifests() {
  local chart=$work/out/agentloop-$version.tgz
  {
    echo "# agentloop $version: kubectl apply --filename install.yaml"
    cat <<YAML
apiVersion: v1
kind: Namespace
metadata:
  name: $NAMESPACE
  labels:
    pod-security.kubernetes.io/enforce: restricted
YAML
    helm template agentloop "$chart" --namespace "$NAMESPACE"
  } >"$work/out/install.yaml"
  {
    cat <<YAML
# Before you delete what install.yaml created, this Job stops the operator and removes the finalizers from the pods of
# tasks:
#   kubectl create --filename uninstall.yaml
#   kubectl --namespace $NAMESPACE wait job/agentloop-release --for=condition=Complete --timeout=5m
#   kubectl delete --filename uninstall.yaml
# Then delete the objects of install.yaml. Its CRD and its namespace take all tasks with them.
YAML
    helm template agentloop "$chart" --namespace "$NAMESPACE" --set uninstallJob=always \
      --show-only templates/uninstall-rbac.yaml --show-only templates/uninstall-job.yaml
  } >"$work/out/uninstall.yaml"
}

# === what it was built from ===

# A list of the crates in each program, in CycloneDX. cargo-cyclonedx writes beside the manifests, so it works on a copy.
build_sboms() {
  local cyclonedx name copy=$work/checkout
  cyclonedx=$(cargo_tool cargo-cyclonedx "$CARGO_CYCLONEDX" 3)
  mkdir "$copy"
  git archive HEAD | tar --extract --directory "$copy"
  (cd "$copy" && "$cyclonedx" cyclonedx --quiet --format json --spec-version 1.5 --describe binaries --no-build-deps \
    --target "$(triple_of amd64)") >&2
  for name in "${IMAGES[@]}" "$PLUGIN"; do
    # The only path of this machine is that of the copy.
    sed "s|$copy|/agentloop|g" "$(find "$copy" -name "${name}_bin.cdx.json")" | jq . >"$work/out/sbom-$name-$version.cdx.json"
  done
}

write_checksums() { (cd "$work/out" && sha256sum -- * >SHA256SUMS); }

# An in-toto statement with SLSA's provenance: which files and images were built from which commit, by what.
write_provenance() {
  local repository=${source:-urn:agentloop:no-source} builder
  builder=${GITHUB_WORKFLOW_REF:+https://github.com/$GITHUB_WORKFLOW_REF}
  jq --null-input --sort-keys \
    --rawfile sums "$work/out/SHA256SUMS" --rawfile images "$work/out/images.txt" \
    --arg version "$version" --arg revision "${revision%-dirty}" --arg repository "$repository" --arg registry "$registry" \
    --arg builder "${builder:-$repository/RELEASING.md#by-hand}" --arg archs "${buildable[*]}" '
    def lines: split("\n") | map(select(. != ""));
    {
      _type: "https://in-toto.io/Statement/v1",
      subject: (
        [$sums | lines[] | capture("^(?<sha256>[0-9a-f]{64})  (?<name>.*)$") | {name, digest: {sha256}}] +
        [$images | lines[] | capture("^(?<name>.*)@sha256:(?<sha256>[0-9a-f]{64})$") | {name, digest: {sha256}}]),
      predicateType: "https://slsa.dev/provenance/v1",
      predicate: {
        buildDefinition: {
          buildType: "\($repository)/RELEASING.md",
          externalParameters: {version: $version, registry: $registry, architectures: ($archs | split(" "))},
          resolvedDependencies: [{uri: "git+\($repository)", digest: {gitCommit: $revision}}]
        },
        runDetails: {builder: {id: $builder}}
      }
    }' >"$work/out/provenance.intoto.json"
}

# The checksums and the provenance are signed; hack/publish signs the images and the chart in their registry.
sign_release() {
  local options
  mapfile -t options < <(signing_options)
  if [ ${#options[@]} -eq 0 ]; then return; fi
  (cd "$work/out" &&
    cosign sign-blob "${options[@]}" --bundle SHA256SUMS.sigstore.json SHA256SUMS &&
    cosign attest-blob "${options[@]}" --statement provenance.intoto.json --bundle provenance.sigstore.json)
}

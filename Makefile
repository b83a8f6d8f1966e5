# All commands for developers; "make" alone lists them.

# The local cluster of the targets below, and the arguments that start it (--api-only).
CLUSTER      ?= agentloop
CLUSTER_ARGS ?=

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## run two loops on a local cluster (root; CLUSTER=current: on your own cluster)
	@CLUSTER=$(CLUSTER) hack/demo

.PHONY: images
images: ## build the operator's and the runner's image as OCI archives in dist/
	@hack/build-images

# The release, where its images will be, the address of the repository, and yes to fail if a part is missing.
VERSION  ?=
REGISTRY ?= localhost
SOURCE   ?=
COMPLETE ?=

.PHONY: release
release: ## build a release into dist/release/ (VERSION=, REGISTRY=, SOURCE=; COMPLETE=yes: with all parts)
	@hack/release --registry '$(REGISTRY)' --source '$(SOURCE)' $(if $(COMPLETE),--complete) '$(VERSION)'

.PHONY: publish
publish: ## push the release in dist/release/ to its registry, and sign it there
	@hack/publish

.PHONY: release-page
release-page: ## create the page of the release in dist/release/ on GitHub, with its files (needs gh)
	@hack/publish --page

.PHONY: prerequisites
prerequisites: ## check what this machine needs, and install what is missing if that is allowed
	@hack/prerequisites $(MODES)

.PHONY: tools
tools: ## build Kubernetes, etcd, containerd and helm from source, once (15 min on two cores)
	@hack/tools/build

.PHONY: cluster
cluster: ## start the local cluster and print its KUBECONFIG (root; not with CLUSTER_ARGS=--api-only)
	@kubeconfig=$$(hack/cluster up --name $(CLUSTER) $(CLUSTER_ARGS)) && echo "export KUBECONFIG=$$kubeconfig"

.PHONY: cluster-down
cluster-down: ## stop the local cluster and remove all its files
	@hack/cluster down --name $(CLUSTER)

.PHONY: generate
generate: ## generate the CRD, the JSON Schema for editors and the reference pages from the code
	@hack/generate

.PHONY: docs
docs: ## build the documentation as a site in dist/docs
	@hack/docs

.PHONY: lint
lint: ## check formatting, code, documentation, dependencies, scripts and chart
	@hack/lint

.PHONY: audit
audit: ## check the dependencies against the advisory database (needs the internet)
	@hack/lint audit

.PHONY: test
test: ## run all tests; builds and starts everything that they need
	@hack/test

# Seconds per target.
FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: ## search for inputs that break the parsers (FUZZ_SECONDS=60 per target)
	@hack/prerequisites rust fuzz
	@hack/fuzz --seconds $(FUZZ_SECONDS)

.PHONY: model
model: ## search everything that can happen to the rules, within bounds
	@cargo run --quiet --locked --package agentloop-model

.PHONY: chaos
chaos: ## run the shipped operator through 10,000 fault plans (PLANS=, FROM=, SEED=, JOBS=)
	@hack/chaos plans

.PHONY: endurance
endurance: ## run 1,000 tasks through 20 iterations each with one operator (TASKS=, ITERATIONS=, SEED=)
	@hack/chaos endurance

.PHONY: test-unit test-fuzz test-model test-api test-chaos test-chart test-examples test-e2e test-demo
test-unit: ## run the tests that need no server
test-fuzz: ## search briefly for inputs that break the parsers
test-model: ## search briefly what can happen to the rules, and verify that the search finds broken rules
test-api: ## run the operator's tests against a real API server
test-chaos: ## run a sample of fault plans, and verify that the checker detects broken operators
test-chart: ## run the chart's tests
test-examples: ## apply every example to a real API server
test-e2e: ## run the tests in a cluster with a real kubelet (root)
test-demo: ## run the demo from an empty cluster to its end (root)
test-unit test-fuzz test-model test-api test-chaos test-chart test-examples test-e2e test-demo:
	@hack/test $(@:test-%=%)

.PHONY: test-agents test-release test-reproducible
test-agents: ## run real agents with a scripted model, in a cluster with a real kubelet (root)
test-release: ## publish a release to a registry, install, upgrade and uninstall it, verify its signatures (root)
test-reproducible: ## build a release twice, in two folders, and verify that the bytes are the same
test-agents test-release test-reproducible:
	@hack/test $(@:test-%=%)

.PHONY: transitions
transitions: ## edit 1,000 tasks in the middle of their loops, and verify that they end like new tasks
	@hack/test transitions

.PHONY: memory
memory: ## measure the operator's memory with 1,000 tasks, 10,000 pods and crafted objects
	@hack/test memory

.PHONY: bench
bench: ## measure agentloop beside a raw writer and the Job controller, and write docs/performance.md (1 h, on an idle machine)
	@hack/bench full

.PHONY: bench-quick
bench-quick: ## the same, small: prints, and fails if a count exceeds its bound (3 min)
	@hack/bench quick

.PHONY: mutants
mutants: ## mutate the rules and parsers one place at a time, and list the mutants that no test catches (1 h on two cores)
	@hack/mutants

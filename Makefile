# One command for everything that a developer does; "make" alone lists them.

# The local cluster that the targets below mean, and what it is started with (--api-only).
CLUSTER      ?= agentloop
CLUSTER_ARGS ?=

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## show two loops on a local cluster, from nothing (root; CLUSTER=current: on your own cluster)
	@CLUSTER=$(CLUSTER) hack/demo

.PHONY: images
images: ## build the operator's and the runner's image as OCI archives in dist/
	@hack/build-images

.PHONY: prerequisites
prerequisites: ## check what this machine must have, and install it where that is allowed
	@hack/prerequisites

.PHONY: tools
tools: ## build Kubernetes, etcd, containerd and helm from source, once (15 min on two cores)
	@hack/tools/build

.PHONY: cluster
cluster: ## start the local cluster (root; CLUSTER_ARGS=--api-only needs none) and print its KUBECONFIG
	@kubeconfig=$$(hack/cluster up --name $(CLUSTER) $(CLUSTER_ARGS)) && echo "export KUBECONFIG=$$kubeconfig"

.PHONY: cluster-down
cluster-down: ## end the local cluster and remove all that it left
	@hack/cluster down --name $(CLUSTER)

.PHONY: generate
generate: ## write what is generated from the API's types: the CRD, its schema for editors and its reference
	@hack/generate

.PHONY: lint
lint: ## check format, code, documentation, dependencies, scripts and chart
	@hack/lint

.PHONY: audit
audit: ## check the dependencies against the advisory database (needs the internet)
	@hack/lint audit

.PHONY: test
test: ## run all tests; everything that they need is built and started
	@hack/test

# Seconds for each target.
FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: ## search for inputs that break the parsers, FUZZ_SECONDS (60) for each of fuzz/targets
	@hack/prerequisites rust fuzz
	@hack/fuzz --seconds $(FUZZ_SECONDS)

.PHONY: model
model: ## search all that can happen to the rules, within bounds
	@cargo run --quiet --locked --package agentloop-model

.PHONY: chaos
chaos: ## put the shipped operator through 10,000 planned disasters (PLANS=, FROM=, SEED=, JOBS=)
	@hack/chaos plans

.PHONY: endurance
endurance: ## bring 1,000 tasks through 20 iterations each with one operator (TASKS=, ITERATIONS=, SEED=)
	@hack/chaos endurance

.PHONY: test-unit test-fuzz test-model test-api test-chaos test-chart test-examples test-e2e test-demo
test-unit: ## run the tests that need no server
test-fuzz: ## search for inputs that break the parsers, for a short time
test-model: ## search what can happen to the rules, briefly, and that the search sees what is broken
test-api: ## run the operator's tests against a real API server
test-chaos: ## run a sample of planned disasters, and see that breaks are seen
test-chart: ## run the chart's tests
test-examples: ## try every example against a real API server
test-e2e: ## run the tests in a cluster with a real kubelet (root)
test-demo: ## run the demo from an empty cluster to its end (root)
test-unit test-fuzz test-model test-api test-chaos test-chart test-examples test-e2e test-demo:
	@hack/test $(@:test-%=%)

.PHONY: transitions
transitions: ## edit 1,000 tasks in the middle of their loops: do they end as fresh ones do?
	@hack/test transitions

.PHONY: memory
memory: ## measure the operator's memory with 1,000 tasks, 10,000 pods and objects that are made to take much
	@hack/test memory

.PHONY: mutants
mutants: ## break the rules and the parsers one place at a time: does a test notice? (1 h on two cores)
	@hack/mutants

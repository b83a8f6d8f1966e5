# One command for everything that a developer does; "make" alone lists them.

# The local cluster that the targets below mean, and what it is started with (--api-only).
CLUSTER      ?= agentloop
CLUSTER_ARGS ?=

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

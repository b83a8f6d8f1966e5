//! Who else writes the fields that a patch changes, and will write them again.

use agentloop_core::api::AgentTask;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::ResourceExt;
use serde_json::Value;

use crate::text;

/// The start of the names under which tools that apply manifests again and again write.
const REPEATED: &[(&str, &str)] = &[
    ("argocd", "Argo CD"),
    ("kustomize-controller", "Flux"),
    ("helm-controller", "Flux"),
    ("flux", "Flux"),
    ("fleetagent", "Fleet"),
    ("fleet-agent", "Fleet"),
    ("kapp", "kapp"),
    ("helm", "Helm"),
    ("pulumi", "Pulumi"),
    ("Terraform", "Terraform"),
    ("configsync", "Config Sync"),
];

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A warning for each field of a patch of the spec that another tool will write again.
pub fn warnings(task: &AgentTask, patch: &Value) -> Vec<String> {
    let fields = patch.get("spec").and_then(Value::as_object);
    let fields = fields.into_iter().flat_map(|spec| spec.keys());
    fields.filter_map(|field| warning(task, field)).collect()
}

fn warning(task: &AgentTask, field: &str) -> Option<String> {
    let owners = task.metadata.managed_fields.iter().flatten().filter(|entry| owns(entry, field));
    for entry in owners {
        let manager = entry.manager.as_deref().unwrap_or_default();
        if let Some((_, tool)) = REPEATED.iter().find(|(start, _)| manager.starts_with(start)) {
            return Some(format!(
                "spec.{field} is managed by {tool} (field manager {}), which can set it back: change it at its source \
                 too, or leave it out there",
                text::line(manager)
            ));
        }
        // Without conflicts, only server-side apply lets a manager know that it applied a field.
        if entry.operation.as_deref() == Some("Apply") {
            return Some(format!(
                "spec.{field} was applied by {}: its next apply is a conflict, or sets it back; change it there too, or \
                 leave it out there",
                text::line(manager)
            ));
        }
    }
    let applied = task.annotations().get(LAST_APPLIED)?;
    let applied: Value = serde_json::from_str(applied).ok()?;
    applied.get("spec")?.get(field)?;
    Some(format!(
        "spec.{field} is in the manifest that was last applied: kubectl apply of the same file sets it back; change it \
         there too, or leave it out there"
    ))
}

fn owns(entry: &ManagedFieldsEntry, field: &str) -> bool {
    let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
    fields.and_then(|fields| fields.get("f:spec")?.get(format!("f:{field}"))).is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(metadata: &Value) -> Vec<String> {
        let task = json!({
            "apiVersion": "agentloop.dev/v1alpha1", "kind": "AgentTask", "metadata": metadata,
            "spec": { "template": {} },
        });
        let task = serde_json::from_value(task).expect("a task");
        warnings(&task, &json!({ "spec": { "maxIterations": 20, "resetToken": "x" } }))
    }

    fn managed(manager: &str, operation: &str, field: &str) -> Value {
        json!({ "name": "x", "managedFields": [{
            "manager": manager, "operation": operation, "apiVersion": "agentloop.dev/v1alpha1",
            "fieldsType": "FieldsV1", "fieldsV1": { "f:spec": { (format!("f:{field}")): {} } },
        }] })
    }

    #[test]
    fn a_field_that_a_gitops_tool_owns_is_named_with_the_tool() {
        let warned = found(&managed("argocd-controller", "Update", "maxIterations"));
        assert_eq!(warned.len(), 1);
        assert!(warned[0].starts_with("spec.maxIterations is managed by Argo CD"), "{warned:?}");
        assert!(found(&managed("kustomize-controller", "Apply", "resetToken"))[0].contains("by Flux"));
        assert!(found(&managed("robot", "Apply", "resetToken"))[0].contains("was applied by robot"));
    }

    #[test]
    fn other_fields_and_other_managers_are_no_warning() {
        assert_eq!(found(&managed("argocd-controller", "Update", "template")), Vec::<String>::new());
        assert_eq!(found(&managed("kubectl-patch", "Update", "maxIterations")), Vec::<String>::new());
        assert_eq!(found(&json!({ "name": "x" })), Vec::<String>::new());
    }

    #[test]
    fn a_manifest_that_was_applied_is_a_warning() {
        let manifest = json!({ "spec": { "maxIterations": 10 } }).to_string();
        let warned = found(&json!({ "name": "x", "annotations": { LAST_APPLIED: manifest } }));
        assert_eq!(warned.len(), 1);
        assert!(warned[0].contains("in the manifest that was last applied"), "{warned:?}");
    }
}

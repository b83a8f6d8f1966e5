//! The volumes that agentloop adds to a pod.

use agentloop_contract::names::{ANNOTATION_CONTEXT, ANNOTATION_PROMPT, CONTEXT_FILE, PROMPT_FILE};
use kube::ResourceExt;
use serde_json::{Map, Value, json};

use super::{BIN_VOLUME, INPUT_VOLUME, Injection, SCRATCH_VOLUME, WORKSPACE_VOLUME, pvc_name};
use crate::api::AgentTask;

pub(super) fn volumes(task: &AgentTask, injection: &Injection) -> [Value; 4] {
    let spec = &task.spec;
    let annotation = |path: &str, name: &str| json!({ "path": path, "fieldRef": { "fieldPath": format!("metadata.annotations['{name}']") } });
    let mut from_pod = vec![annotation(CONTEXT_FILE, ANNOTATION_CONTEXT)];
    if spec.prompt.is_some() {
        from_pod.push(annotation(PROMPT_FILE, ANNOTATION_PROMPT));
    }
    let mut sources = vec![json!({ "downwardAPI": { "items": from_pod } })];
    if let Some(from) = &spec.prompt_from {
        let keys = [("configMap", &from.config_map_key_ref), ("secret", &from.secret_key_ref)];
        sources.extend(keys.into_iter().filter_map(|(kind, key)| {
            let key = key.as_ref()?;
            Some(json!({ kind: { "name": key.name, "items": [{ "key": key.key, "path": PROMPT_FILE }] } }))
        }));
    }
    let runner = if injection.image_volume {
        let mut image = Map::from_iter([("reference".to_owned(), json!(injection.image))]);
        if let Some(policy) = &injection.pull_policy {
            image.insert("pullPolicy".to_owned(), json!(policy));
        }
        json!({ "name": BIN_VOLUME, "image": image })
    } else {
        json!({ "name": BIN_VOLUME, "emptyDir": {} })
    };
    let workspace = if spec.workspace.volume_claim_template.is_some() {
        let name = pvc_name(&task.name_any(), &task.uid().unwrap_or_default());
        json!({ "name": WORKSPACE_VOLUME, "persistentVolumeClaim": { "claimName": name } })
    } else if let Some(existing) = &spec.workspace.persistent_volume_claim {
        json!({ "name": WORKSPACE_VOLUME, "persistentVolumeClaim": { "claimName": existing.claim_name } })
    } else {
        json!({ "name": WORKSPACE_VOLUME, "emptyDir": {} })
    };
    [
        workspace,
        runner,
        // Any user that an image runs as can read it.
        json!({ "name": INPUT_VOLUME, "projected": { "defaultMode": 0o444, "sources": sources } }),
        // In memory, so that a prompt from a Secret is never written to a disk.
        json!({ "name": SCRATCH_VOLUME, "emptyDir": { "medium": "Memory", "sizeLimit": "4Mi" } }),
    ]
}

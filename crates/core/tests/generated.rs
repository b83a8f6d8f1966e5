//! What is generated from the types says what the types say.

#[allow(dead_code)] // its main
#[path = "../examples/api_reference.rs"]
mod api_reference;

#[allow(dead_code)] // its main
#[path = "../examples/editor_schema.rs"]
mod editor_schema;

use std::{fs, path::Path};

const DEFINITION: &str = "crds/agenttasks.agentloop.dev.yaml";

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Says where the two part, instead of printing both.
#[track_caller]
fn same(path: &str, expected: &str) {
    let found = read(path);
    let differs = found.lines().zip(expected.lines()).enumerate().find(|(_, (found, types))| found != types);
    if let Some((at, (found, types))) = differs {
        panic!(
            "{path} is not what the types say: run make generate\nline {}\n  file:  {found}\n  types: {types}",
            at + 1
        );
    }
    assert!(found == expected, "{path} is not as long as what the types say: run make generate");
}

#[test]
fn the_reference_is_what_the_types_say() {
    same("docs/api.md", &api_reference::markdown());
}

#[test]
fn the_definition_is_what_the_types_say() {
    same(DEFINITION, &serde_saphyr::to_string(&agentloop_core::api::crd_document()).expect("YAML"));
}

#[test]
fn the_schema_for_editors_is_what_the_types_say() {
    same("crds/schema/agenttask.schema.json", &editor_schema::schema());
}

#[test]
fn the_charts_definition_is_the_repositorys() {
    same("charts/agentloop/files/crds/agenttasks.agentloop.dev.yaml", &read(DEFINITION));
}

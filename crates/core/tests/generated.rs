//! The generated files match the types.

#[allow(dead_code)] // its main
#[path = "../examples/api_reference.rs"]
mod api_reference;

#[allow(dead_code)] // its main
#[path = "../examples/editor_schema.rs"]
mod editor_schema;

use std::{fs, path::Path};

const CRD: &str = "crds/agenttasks.agentloop.dev.yaml";

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Names the first line that differs, instead of printing both texts.
#[track_caller]
fn same(path: &str, expected: &str) {
    let found = read(path);
    let differs = found.lines().zip(expected.lines()).enumerate().find(|(_, (found, types))| found != types);
    if let Some((at, (found, types))) = differs {
        panic!(
            "{path} does not match the types: run make generate\nline {}\n  file:  {found}\n  types: {types}",
            at + 1
        );
    }
    assert!(found == expected, "{path} is not as long as the types require: run make generate");
}

#[test]
fn the_api_reference_matches_the_types() {
    same("docs/api.md", &api_reference::markdown());
}

#[test]
fn the_crd_matches_the_types() {
    same(CRD, &serde_saphyr::to_string(&agentloop_core::api::crd_document()).expect("YAML"));
}

#[test]
fn the_schema_for_editors_matches_the_types() {
    same("crds/schema/agenttask.schema.json", &editor_schema::schema());
}

#[test]
fn the_charts_crd_is_a_copy_of_the_repositorys() {
    same("charts/agentloop/files/crds/agenttasks.agentloop.dev.yaml", &read(CRD));
}

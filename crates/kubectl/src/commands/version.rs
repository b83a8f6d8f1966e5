//! `version`.

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, ListParams};
use kube::{Resource, ResourceExt};

use agentloop_core::api::AgentTask;

use crate::cli::{Connection, VersionArgs};
use crate::failure::{Failure, Request};
use crate::session::{Session, Terminal, print};
use crate::text::line;

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) async fn run(
    args: &VersionArgs,
    connection: &Connection,
    terminal: Terminal,
) -> Result<(), Failure> {
    print(&[format!("plugin: {VERSION}")])?;
    if args.client {
        return Ok(());
    }
    let session = Session::open(connection, terminal).await?;
    let served = served_versions(&session).await?;
    let api = if served.is_empty() {
        "API: agentloop.dev is not installed in this cluster".to_owned()
    } else {
        format!("API: {}", served.join(", "))
    };
    print(&[api])?;
    let operators = match operators(&session).await {
        Ok(operators) if operators.is_empty() => vec!["operator: none found".to_owned()],
        Ok(operators) => operators,
        // Whoever may read tasks may not be allowed to read Deployments.
        Err(failure) => vec![format!("operator: unknown ({failure})")],
    };
    print(&operators)
}

/// The versions of the API that the cluster has.
async fn served_versions(session: &Session) -> Result<Vec<String>, Failure> {
    let group = AgentTask::group(&());
    let request = Request { verb: "get", resource: "apis", name: Some(&group), namespace: None };
    let groups = session.answer(request, session.client.list_api_groups()).await?;
    let found = groups.groups.into_iter().filter(|found| found.name == group);
    Ok(found.flat_map(|group| group.versions).map(|version| line(&version.group_version)).collect())
}

async fn operators(session: &Session) -> Result<Vec<String>, Failure> {
    let params = ListParams::default()
        .labels("app.kubernetes.io/part-of=agentloop,app.kubernetes.io/component=controller");
    let request = Request { verb: "list", resource: "deployments", name: None, namespace: None };
    let api: Api<Deployment> = Api::all(session.client.clone());
    let found = session.answer(request, api.list(&params)).await?;
    let shown = |operator: &Deployment| {
        let version = operator.labels().get("app.kubernetes.io/version").map_or("unknown", String::as_str);
        let namespace = operator.namespace().unwrap_or_default();
        format!("operator: {} ({}/{})", line(version), line(&namespace), line(&operator.name_any()))
    };
    Ok(found.items.iter().map(shown).collect())
}

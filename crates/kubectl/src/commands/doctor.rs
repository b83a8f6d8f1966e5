//! `doctor`.

use std::time::Duration;

use agentloop_core::api::{AgentTask, crd_document};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::{Resource, ResourceExt};
use serde_json::Value;

use super::wait;
use crate::cli::{DoctorArgs, RunArgs};
use crate::failure::{Failure, Request, exit};
use crate::manifest;
use crate::session::{MANAGER, Session, print};
use crate::text::line;
use crate::view::doctor::{self as view, Check, Grade, RIGHTS, Right};
use crate::view::{message, phase};

/// Rights that are asked for at the same time.
const AT_A_TIME: usize = 4;
/// How long the hello task may take.
const HELLO: Duration = Duration::from_mins(3);
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

pub(super) async fn run(session: &Session, args: &DoctorArgs) -> Result<u8, Failure> {
    let mut bad = false;
    let mut report = |checks: Vec<Check>| {
        bad |= checks.iter().any(|check| check.grade == Grade::Bad);
        print(&view::lines(&checks, &session.terminal.canvas()))
    };
    // Without an answer to this one, there is none to the others.
    let request = Request { verb: "get", resource: "version", name: None, namespace: None };
    let version = session.answer(request, session.client.apiserver_version()).await?;
    report(vec![view::kubernetes(&version.major, &version.minor)])?;
    report(vec![crd(session).await])?;
    report(operators(session).await)?;
    report(vec![or_unknown("your rights", rights(session).await)])?;
    report(vec![or_unknown("storage", storage(session).await)])?;
    report(vec![or_unknown("image volumes", image_volumes(session, &version.minor).await)])?;
    report(vec![or_unknown("Pod Security", pod_security(session).await)])?;
    if args.hello {
        report(vec![hello(session, args).await])?;
    }
    Ok(if bad { exit::ERROR } else { exit::OK })
}

/// What could not be read is not known.
fn or_unknown(what: &'static str, check: Result<Check, Failure>) -> Check {
    check.unwrap_or_else(|failure| Check::new(Grade::Unknown, what, failure.text))
}

/// Compares the schema that the API server has, which everyone may read, with that of this version.
async fn crd(session: &Session) -> Check {
    const WHAT: &str = "CRD";
    let path = format!("/openapi/v3/apis/{}/{}", AgentTask::group(&()), AgentTask::version(&()));
    let request = Request { verb: "get", resource: "openapi", name: None, namespace: None };
    let Ok(read) = http::Request::get(&path).body(Vec::new()) else {
        return Check::new(Grade::Unknown, WHAT, "the address of the schema cannot be built");
    };
    let sent = session.client.request::<Value>(read);
    let document = match session.answer(request, async { Ok(sent.await) }).await {
        Ok(Ok(document)) => document,
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
            return Check::bad(
                WHAT,
                "agenttasks.agentloop.dev is not installed in this cluster: install the chart",
            );
        }
        Ok(Err(error)) => return Check::new(Grade::Unknown, WHAT, request.failed(&error).text),
        Err(failure) => return Check::new(Grade::Unknown, WHAT, failure.text),
    };
    let schemas = document.pointer("/components/schemas").and_then(Value::as_object);
    let served = schemas.and_then(|schemas| schemas.iter().find(|(name, _)| name.ends_with(".AgentTask")));
    let own = crd_document();
    let own = own.pointer("/spec/versions/0/schema/openAPIV3Schema");
    match (own, served) {
        (Some(own), Some((_, served))) => view::fields(own, served),
        _ => Check::new(Grade::Unknown, WHAT, "the API server's schema has no AgentTask"),
    }
}

/// The operators, their leaders and their settings.
async fn operators(session: &Session) -> Vec<Check> {
    let labels = "app.kubernetes.io/part-of=agentloop,app.kubernetes.io/component=controller";
    let request = Request { verb: "list", resource: "deployments", name: None, namespace: None };
    let api: Api<Deployment> = Api::all(session.client.clone());
    let found = session.answer(request, api.list(&ListParams::default().labels(labels))).await;
    let found = match found {
        Ok(found) => found.items,
        Err(failure) => return vec![Check::new(Grade::Unknown, "operator", failure.text)],
    };
    if found.is_empty() {
        return vec![Check::bad(
            "operator",
            "no Deployment of agentloop is in this cluster: install the chart",
        )];
    }
    let mut checks = Vec::new();
    for operator in found {
        let namespace = operator.namespace().unwrap_or_default();
        let name = format!("{namespace}/{}", operator.name_any());
        let version = operator.labels().get("app.kubernetes.io/version").map(String::as_str);
        let wanted = operator.spec.replicas.unwrap_or(1);
        let ready = operator.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
        checks.extend(view::operator(&line(&name), version, wanted, ready));
        let flag =
            |flag: &str, default: &str| argument(&operator, flag).unwrap_or_else(|| default.to_owned());
        checks.push(or_unknown(
            "leader",
            leader(session, &namespace, &flag("--lease-name", "agentloop")).await,
        ));
        let config = flag("--config-map", "agentloop-config");
        match configuration(session, &namespace, &config).await {
            Ok(found) => checks.extend(found),
            Err(failure) => checks.push(Check::new(Grade::Unknown, "settings", failure.text)),
        }
    }
    checks
}

/// The value of a flag of the operator.
fn argument(operator: &Deployment, flag: &str) -> Option<String> {
    let pod = operator.spec.template.spec.as_ref()?;
    let mut arguments = pod.containers.iter().flat_map(|container| container.args.iter().flatten());
    let found = arguments.find_map(|argument| argument.strip_prefix(flag)?.strip_prefix('='))?;
    Some(found.to_owned())
}

async fn leader(session: &Session, namespace: &str, name: &str) -> Result<Check, Failure> {
    let request = Request { verb: "get", resource: "leases", name: Some(name), namespace: Some(namespace) };
    let api: Api<Lease> = session.api(namespace);
    let lease =
        session.answer(request, api.get_opt(name)).await?.and_then(|lease| lease.spec).unwrap_or_default();
    let renewed = lease.renew_time.map(|time| time.0);
    let seconds = lease.lease_duration_seconds.unwrap_or(15);
    Ok(view::leader(name, lease.holder_identity.as_deref(), renewed, seconds, Timestamp::now()))
}

async fn configuration(session: &Session, namespace: &str, name: &str) -> Result<Vec<Check>, Failure> {
    let request =
        Request { verb: "get", resource: "configmaps", name: Some(name), namespace: Some(namespace) };
    let api: Api<ConfigMap> = session.api(namespace);
    let map = session.answer(request, api.get_opt(name)).await?;
    let data = map.map(|map| map.data.unwrap_or_default());
    Ok(view::configuration(&format!("{namespace}/{name}"), data.as_ref()))
}

async fn rights(session: &Session) -> Result<Check, Failure> {
    let api: Api<SelfSubjectAccessReview> = Api::all(session.client.clone());
    let asked = stream::iter(RIGHTS).map(|right| allowed(session, &api, right)).buffered(AT_A_TIME);
    let answers: Vec<(Right, bool)> = asked.try_collect().await?;
    Ok(view::rights(&session.namespace, &answers))
}

async fn allowed(
    session: &Session,
    api: &Api<SelfSubjectAccessReview>,
    right: &Right,
) -> Result<(Right, bool), Failure> {
    let text = |text: &str| Some(text.to_owned());
    let attributes = ResourceAttributes {
        namespace: Some(session.namespace.clone()),
        verb: text(right.verb),
        group: text(right.group),
        resource: text(right.resource),
        subresource: text(right.subresource),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() },
        ..Default::default()
    };
    let request =
        Request { verb: "create", resource: "selfsubjectaccessreviews", name: None, namespace: None };
    let answer = session.answer(request, api.create(&PostParams::default(), &review)).await?;
    Ok((*right, answer.status.is_some_and(|status| status.allowed)))
}

async fn storage(session: &Session) -> Result<Check, Failure> {
    let request = Request { verb: "list", resource: "storageclasses", name: None, namespace: None };
    let api: Api<StorageClass> = Api::all(session.client.clone());
    let found = session.answer(request, api.list(&ListParams::default())).await?;
    let is_default =
        |class: &StorageClass| class.annotations().get(DEFAULT_CLASS).is_some_and(|is| is == "true");
    let classes: Vec<_> = found.iter().map(|class| (class.name_any(), is_default(class))).collect();
    Ok(view::storage(&classes))
}

async fn image_volumes(session: &Session, minor: &str) -> Result<Check, Failure> {
    let request = Request { verb: "list", resource: "nodes", name: None, namespace: None };
    let api: Api<Node> = Api::all(session.client.clone());
    let nodes = session.answer(request, api.list(&ListParams::default())).await?;
    let runtime =
        |node: &Node| Some(node.status.as_ref()?.node_info.as_ref()?.container_runtime_version.clone());
    Ok(view::image_volumes(minor, &nodes.iter().filter_map(runtime).collect::<Vec<_>>()))
}

async fn pod_security(session: &Session) -> Result<Check, Failure> {
    let name = &session.namespace;
    let request = Request { verb: "get", resource: "namespaces", name: Some(name), namespace: None };
    let api: Api<Namespace> = Api::all(session.client.clone());
    let namespace = session.answer(request, api.get(name)).await?;
    Ok(view::pod_security(name, namespace.labels()))
}

/// Runs a task of one iteration, and removes it.
async fn hello(session: &Session, args: &DoctorArgs) -> Check {
    const WHAT: &str = "hello task";
    let name = format!("hello-{}", Timestamp::now().as_millisecond());
    let asked = RunArgs {
        name: name.clone(),
        image: args.image.clone(),
        max: Some(1),
        until_exit: true,
        ephemeral: true,
        user: 65532,
        command: ["sh", "-c", "echo Hello."].map(str::to_owned).to_vec(),
        ..RunArgs::default()
    };
    let api: Api<AgentTask> = session.api(&session.namespace);
    let request = Request {
        verb: "create",
        resource: "agenttasks",
        name: Some(&name),
        namespace: Some(&session.namespace),
    };
    let task = manifest::task(&asked, &session.namespace, "Greet the world.");
    let task: AgentTask = match serde_json::from_value(task) {
        Ok(task) => task,
        Err(error) => return Check::bad(WHAT, error.to_string()),
    };
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    let created = match session.answer(request, api.create(&params, &task)).await {
        Ok(created) => created,
        Err(failure) => return Check::bad(WHAT, failure.text),
    };
    let stopped = wait::within(Some(HELLO), &name, wait::until_stopped(session, &name, created)).await;
    let check = match stopped {
        Ok((_, exit::OK)) => Check::good(WHAT, "ran and succeeded"),
        Ok((task, _)) => Check::bad(WHAT, format!("{}: {}", phase(&task), message(&task))),
        Err(failure) => {
            let task = session.task::<AgentTask>(&name).await.ok();
            let why = task.map(|task| message(&task)).unwrap_or_default();
            Check::bad(WHAT, format!("{} {why}", failure.text))
        }
    };
    let removal = Request { verb: "delete", ..request };
    match session.answer(removal, api.delete(&name, &DeleteParams::default())).await {
        Ok(_) => check,
        Err(failure) => Check::bad(WHAT, format!("{}; and it could not be removed: {failure}", check.found)),
    }
}

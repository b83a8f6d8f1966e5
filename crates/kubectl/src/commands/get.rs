//! `get`.

use agentloop_core::api::AgentTask;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::Value;

use crate::cli::GetArgs;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::session::{Session, print, print_text};
use crate::view::task::{self, Pods};

pub(super) async fn run(session: &Session, args: &GetArgs) -> Result<(), Failure> {
    let format = &args.output.output;
    if matches!(format, Format::Json | Format::Yaml | Format::JsonPath(_)) {
        let mut object: Value = session.task(&args.name).await?;
        output::complete(&mut object);
        return print_text(&output::print(format, &object)?);
    }
    let task: AgentTask = session.task(&args.name).await?;
    if *format == Format::Name {
        return print(&[output::name(&task)]);
    }
    // Whoever may read tasks may not be allowed to read pods.
    let pods = session.pods_of(&task).await.map(|pods| known(&pods)).unwrap_or_default();
    let mut canvas = session.terminal.canvas();
    if *format == Format::Wide {
        canvas.columns = None;
    }
    print(&task::lines(&task, &pods, &canvas))
}

pub(super) fn known(pods: &[Pod]) -> Pods {
    let started = pods.iter().map(|pod| (pod.name_any(), started(pod))).collect();
    Pods { started, listed: true }
}

/// When the first container of a pod started.
fn started(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.as_ref()?.container_statuses.iter().flatten();
    let states = statuses.filter_map(|status| status.state.as_ref());
    let times = states.filter_map(|state| {
        let running = state.running.as_ref().and_then(|running| running.started_at.as_ref());
        running.or_else(|| state.terminated.as_ref().and_then(|ended| ended.started_at.as_ref()))
    });
    times.map(|time| time.0).min()
}

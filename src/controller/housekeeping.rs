//! What the loop does at every beat: it counts tasks, reports namespaces that it cannot list, and forgets what is gone.

use std::collections::HashMap;
use std::sync::Arc;

use agentloop_core::api::Phase;
use tracing::{error, info};

use super::context::ControllerContext;
use super::scope::WatchScope;
use crate::health::Health;
use crate::metrics::Metrics;

pub(super) fn run(scopes: &[Arc<WatchScope>], context: &ControllerContext, health: &Health) {
    count_phases(scopes, context);
    report_unlisted(scopes, &context.metrics, health);
    context.event_obstacles.forget_unused();
    for scope in scopes {
        scope.clean_up();
    }
}

/// Reports which namespaces cannot be listed, and why.
pub(super) fn report_unlisted(scopes: &[Arc<WatchScope>], metrics: &Metrics, health: &Health) {
    let mut unlisted = Vec::new();
    for scope in scopes {
        let trouble = scope.trouble();
        metrics.unlisted(&scope.namespace, trouble.is_some());
        let was_unlisted = scope.set_unlisted(trouble.is_some());
        match trouble {
            Some(why) => {
                if !was_unlisted {
                    error!(
                        namespace = scope.namespace,
                        error = why,
                        "cannot list the namespace; serving the others"
                    );
                }
                unlisted.push(format!("{}: {why}", scope.namespace));
            }
            None if was_unlisted => info!(namespace = scope.namespace, "the namespace can be listed again"),
            None => {}
        }
    }
    health.unlisted(unlisted);
}

fn count_phases(scopes: &[Arc<WatchScope>], context: &ControllerContext) {
    let mut count: HashMap<Phase, i64> = HashMap::new();
    let mut elsewhere = 0;
    for scope in scopes {
        for task in scope.tasks.all() {
            let served_by = task.served_by.as_deref();
            if served_by.is_some_and(|release| context.serving.if_other_release(release).is_some()) {
                elsewhere += 1;
                continue;
            }
            *count.entry(task.phase.unwrap_or(Phase::Pending)).or_default() += 1;
        }
    }
    context.metrics.tasks(|phase| count.get(&phase).copied().unwrap_or_default());
    context.metrics.tasks_elsewhere(elsewhere);
}

//! Starts the operators of a plan, each behind its own proxy.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;

use crate::experiment::Experiment;
use crate::operator::{OperatorProcess, Program};
use crate::plan::InjectedFault;
use crate::proxy::Proxy;

/// The operators' names.
const NAMES: [&str; 2] = ["a", "b"];

/// Opens the proxies and starts the plan's operators. `namespaces` are the watched ones, separated by commas.
pub async fn operators(
    experiment: &Arc<Experiment>,
    program: &Program,
    folder: &Path,
    namespaces: &str,
) -> Result<Vec<Proxy>> {
    let plan = &experiment.plan;
    let own_clock =
        plan.clock != 0 || plan.faults.iter().any(|planned| matches!(planned.fault, InjectedFault::Clock(_)));
    let mut proxies = Vec::new();
    for (index, name) in NAMES.iter().enumerate() {
        let proxy = Proxy::open(experiment, index).await?;
        let operator =
            OperatorProcess::new(program, name, namespaces, proxy.address, folder, plan.lease, own_clock)
                .await?;
        if own_clock {
            operator.set_clock(if index == 0 { plan.clock } else { 0 }).await?;
        }
        experiment.add_operator(operator);
        proxies.push(proxy);
    }
    for operator in experiment.operators().iter().take(plan.operators) {
        operator.start().await?;
    }
    Ok(proxies)
}

//! What a reader must know about a run: machine, versions, date and command.

use agentloop_test_support::json;
use anyhow::Result;
use jiff::Timestamp;

use crate::measure::exposition::samples;
use crate::parts::Run;
use crate::records::{Label, Record};

/// Records it.
pub async fn record(run: &mut Run, command: &str) -> Result<()> {
    let version = run.world.server.get("/version").await?.unwrap_or_default();
    let etcd = run.world.etcd_metrics().await?;
    let etcd =
        samples(&etcd, "etcd_server_version").next().map_or("unknown", |one| one.label("server_version"));
    let facts = [
        ("command", command.to_owned()),
        ("date", Timestamp::now().strftime("%Y-%m-%d").to_string()),
        ("machine", machine()),
        ("kubernetes", json::text(&version, "/gitVersion").trim_start_matches('v').to_owned()),
        ("etcd", etcd.to_owned()),
        ("agentloop", env!("CARGO_PKG_VERSION").to_owned()),
        ("rounds", run.size.rounds.to_string()),
    ];
    for (what, fact) in facts {
        let record = Record { detail: fact, ..Label::new("about", "", "", 0).record(what, Vec::new()) };
        run.sink.push(record)?;
    }
    Ok(())
}

/// Processor, cores and memory, as the kernel reports them.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo");
    let kibibytes: Option<u64> = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    let gibibytes = kibibytes.map_or(0, |kibibytes| kibibytes.div_ceil(1024 * 1024));
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{model}, {cores} cores, {gibibytes} GiB, Linux {}", kernel.trim())
}

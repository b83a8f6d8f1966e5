//! What a time window cost: CPU, requests and writes to etcd.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;

use crate::measure::exposition::{samples, sum};
use crate::measure::process::Process;
use crate::records::{Label, Sink};
use crate::world::BenchCluster;

/// The kinds of objects that the contenders work with. Leases are left out: they cost by time and not by iteration.
const RESOURCES: &[&str] = &["agenttasks", "configmaps", "events", "jobs", "persistentvolumeclaims", "pods"];

/// One kind of request: verb, resource with subresource, and code of the answer.
pub type Kind = (String, String, String);

/// The state of all counters at one moment.
#[derive(Clone, Debug)]
pub struct Counters {
    at: Instant,
    contender: Option<f64>,
    api_server: f64,
    etcd: f64,
    load: f64,
    puts: f64,
    requests: BTreeMap<Kind, f64>,
}

impl Counters {
    /// Reads them at the start of a window. The pages of metrics are read first, because they cost CPU time.
    pub async fn begin(world: &BenchCluster, contender: Option<Process>) -> Result<Self> {
        let (puts, requests) = counts(world).await?;
        let [api_server, etcd, load] = Self::cpu(world)?;
        let contender = contender.map(Process::cpu_seconds).transpose()?;
        Ok(Self { at: Instant::now(), contender, api_server, etcd, load, puts, requests })
    }

    /// Reads them at the end of a window: the pages of metrics last.
    pub async fn end(world: &BenchCluster, contender: Option<Process>) -> Result<Self> {
        let at = Instant::now();
        let contender = contender.map(Process::cpu_seconds).transpose()?;
        let [api_server, etcd, load] = Self::cpu(world)?;
        let (puts, requests) = counts(world).await?;
        Ok(Self { at, contender, api_server, etcd, load, puts, requests })
    }

    fn cpu(world: &BenchCluster) -> Result<[f64; 3]> {
        let processes = [world.api_server()?, world.etcd()?, Process::own()];
        let [api_server, etcd, load] = processes.map(Process::cpu_seconds);
        Ok([api_server?, etcd?, load?])
    }

    /// What happened from `self` to `end`.
    pub fn until(&self, end: &Self) -> Cost {
        let mut requests = BTreeMap::new();
        for (kind, count) in &end.requests {
            let more = count - self.requests.get(kind).copied().unwrap_or_default();
            if more > 0.0 && is_contenders(kind) {
                requests.insert(kind.clone(), more);
            }
        }
        Cost {
            seconds: end.at.duration_since(self.at).as_secs_f64(),
            contender_cpu: end.contender.zip(self.contender).map(|(end, start)| end - start),
            api_server_cpu: end.api_server - self.api_server,
            etcd_cpu: end.etcd - self.etcd,
            load_cpu: end.load - self.load,
            puts: end.puts - self.puts,
            requests,
        }
    }
}

async fn counts(world: &BenchCluster) -> Result<(f64, BTreeMap<Kind, f64>)> {
    let mut puts = sum(&world.etcd_metrics().await?, "etcd_mvcc_put_total");
    let text = world.api_server_metrics().await?;
    let mut requests = BTreeMap::new();
    for sample in samples(&text, "apiserver_request_total") {
        let (resource, part) = (sample.label("resource"), sample.label("subresource"));
        if resource == "leases" && matches!(sample.label("verb"), "POST" | "PUT" | "PATCH" | "APPLY") {
            puts -= sample.value;
        }
        if RESOURCES.contains(&resource) {
            let resource = if part.is_empty() { resource.to_owned() } else { format!("{resource}/{part}") };
            let kind = (sample.label("verb").to_owned(), resource, sample.label("code").to_owned());
            *requests.entry(kind).or_default() += sample.value;
        }
    }
    Ok((puts, requests))
}

/// Whether a request is the contender's: the load generator creates tasks and Jobs, binds pods and writes their status,
/// and a watch is counted when it ends.
fn is_contenders((verb, resource, _): &Kind) -> bool {
    !matches!(
        (verb.as_str(), resource.as_str()),
        ("POST", "agenttasks" | "jobs" | "pods/binding")
            | ("PATCH", "pods/status")
            | ("APPLY", "configmaps")
            | ("WATCH" | "DELETECOLLECTION", _)
    )
}

/// What a window cost.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    /// Its length.
    pub seconds: f64,
    /// CPU seconds of the contender's process, if it has one of its own.
    pub contender_cpu: Option<f64>,
    /// CPU seconds of the API server.
    pub api_server_cpu: f64,
    /// CPU seconds of etcd.
    pub etcd_cpu: f64,
    /// CPU seconds of this process: load generator, fake kubelet and raw writer.
    pub load_cpu: f64,
    /// Writes to etcd, without those of Leases.
    pub puts: f64,
    /// The contender's requests.
    pub requests: BTreeMap<Kind, f64>,
}

impl Cost {
    /// The number of requests that pass a test.
    pub fn count(&self, is_meant: impl Fn(&str, &str, &str) -> bool) -> f64 {
        let meant = self.requests.iter().filter(|((verb, resource, code), _)| is_meant(verb, resource, code));
        // Not sum(), which is -0.0 if there is none.
        meant.fold(0.0, |all, (_, count)| all + count)
    }

    /// The number of requests that write.
    pub fn writes(&self) -> f64 {
        self.count(|verb, resource, _| !matches!(verb, "GET" | "LIST") && resource != "events")
    }

    /// Records all of it.
    pub fn record(&self, label: &Label, sink: &mut Sink) -> Result<()> {
        sink.push(label.record("seconds", vec![self.seconds]))?;
        if let Some(cpu) = self.contender_cpu {
            sink.push(label.record("contender_cpu_s", vec![cpu]))?;
        }
        sink.push(label.record("api_server_cpu_s", vec![self.api_server_cpu]))?;
        sink.push(label.record("etcd_cpu_s", vec![self.etcd_cpu]))?;
        sink.push(label.record("load_cpu_s", vec![self.load_cpu]))?;
        sink.push(label.record("etcd_puts", vec![self.puts]))?;
        sink.push(label.record("requests", vec![self.count(|_, _, _| true)]))?;
        sink.push(label.record("writes", vec![self.writes()]))?;
        let deletes = self.count(|verb, resource, _| verb == "DELETE" && resource == "pods");
        sink.push(label.record("pod_deletes", vec![deletes]))?;
        let vain = self.count(|verb, resource, code| {
            resource == "pods" && matches!(verb, "DELETE" | "PATCH") && !code.starts_with('2')
        });
        sink.push(label.record("pod_writes_in_vain", vec![vain]))?;
        for ((verb, resource, code), count) in &self.requests {
            sink.push(label.detailed("request", &format!("{verb} {resource} {code}"), *count))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(verb: &str, resource: &str, code: &str) -> Kind {
        (verb.to_owned(), resource.to_owned(), code.to_owned())
    }

    fn counters(puts: f64, requests: &[(Kind, f64)]) -> Counters {
        Counters {
            at: Instant::now(),
            contender: Some(puts),
            api_server: 1.0,
            etcd: 1.0,
            load: 1.0,
            puts,
            requests: requests.iter().cloned().collect(),
        }
    }

    #[test]
    fn the_cost_of_a_window_is_what_its_counters_grew_by_without_the_load_generators_requests() {
        let start = counters(5.0, &[(kind("DELETE", "pods", "200"), 2.0), (kind("GET", "pods", "200"), 7.0)]);
        let end = counters(
            9.0,
            &[
                (kind("DELETE", "pods", "200"), 5.0),
                (kind("DELETE", "pods", "404"), 1.0),
                (kind("GET", "pods", "200"), 7.0),
                (kind("GET", "agenttasks", "200"), 2.0),
                (kind("POST", "pods/binding", "201"), 4.0),
                (kind("PATCH", "pods/status", "200"), 8.0),
            ],
        );
        let cost = start.until(&end);
        assert!((cost.count(|_, _, _| true) - 6.0).abs() < f64::EPSILON);
        assert!((cost.writes() - 4.0).abs() < f64::EPSILON);
        assert!((cost.puts - 4.0).abs() < f64::EPSILON);
        assert_eq!(cost.contender_cpu, Some(4.0));
        assert_eq!(cost.requests.len(), 3, "a request that was not made again is not in it");
    }
}

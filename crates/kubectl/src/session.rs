//! The client and the terminal.

use std::env;
use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use agentloop_core::api::AgentTask;
use http::HeaderValue;
use http::header::USER_AGENT;
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, Resource};
use serde::de::DeserializeOwned;
use terminal_size::{Width, terminal_size};
use tokio::time;

use crate::cli::{Connection, Selection};
use crate::failure::{Failure, Request};
use crate::proxy;
use crate::text::{Style, line};
use crate::view::Canvas;

/// How long one request may take. Watches and logs have no such limit.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Objects in one answer, as kubectl asks for them.
const PAGE: u32 = 500;
/// The field manager of the plugin's writes.
pub const MANAGER: &str = "kubectl-agentloop";

/// Where the output goes.
#[derive(Clone, Copy, Debug)]
pub struct Terminal {
    /// Standard output is a terminal.
    pub live: bool,
    /// Colours.
    pub style: Style,
}

impl Terminal {
    /// The terminal of this process.
    pub fn detect() -> Self {
        let live = io::stdout().is_terminal();
        let refuses = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self { live, style: Style { colour: live && !refuses && !dumb } }
    }

    /// What a view is drawn on now.
    pub fn canvas(&self) -> Canvas {
        let columns = || terminal_size().map(|(Width(columns), _)| usize::from(columns));
        Canvas {
            style: self.style,
            columns: self.live.then(columns).flatten().filter(|columns| *columns > 0),
            now: Timestamp::now(),
        }
    }
}

/// Prints lines.
pub fn print(lines: &[String]) -> Result<(), Failure> {
    let mut text = lines.join("\n");
    if !lines.is_empty() {
        text.push('\n');
    }
    print_text(&text)
}

/// Prints text as it is.
pub fn print_text(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// Prints bytes as they are.
pub fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    Ok(out.write_all(bytes).and_then(|()| out.flush())?)
}

/// Tells the person something that is not part of the output.
pub fn note(text: &str) {
    // Standard error may be closed; the output and the exit code remain.
    let _ = writeln!(io::stderr(), "{text}");
}

/// The first of these variables that is set.
fn variable(names: [&str; 2]) -> Option<String> {
    names.into_iter().find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()))
}

/// The proxy of the environment, which one of the kubeconfig replaces.
fn proxy_of_environment() -> Option<http::Uri> {
    variable(["HTTPS_PROXY", "https_proxy"])?.parse().ok()
}

/// A client with the user's rights.
#[derive(Clone)]
pub struct Session {
    /// The client.
    pub client: Client,
    /// The namespace of all commands without `--all-namespaces`.
    pub namespace: String,
    /// The terminal.
    pub terminal: Terminal,
    /// The flags that chose the cluster, for commands that are printed.
    pub connection: Connection,
}

impl Session {
    /// Reads the kubeconfig. No request is sent.
    pub async fn open(connection: &Connection, terminal: Terminal) -> Result<Self, Failure> {
        let unusable = |error: &dyn std::error::Error| {
            Failure::new(format!(
                "cannot use the kubeconfig: {}; choose another with --kubeconfig or KUBECONFIG",
                line(&error.to_string())
            ))
        };
        let options =
            KubeConfigOptions { context: connection.context.clone(), ..KubeConfigOptions::default() };
        let is_given = connection.context.is_some() || env::var_os("KUBECONFIG").is_some();
        let mut config = match &connection.kubeconfig {
            Some(path) => {
                let kubeconfig = Kubeconfig::read_from(path).map_err(|error| unusable(&error))?;
                Config::from_custom_kubeconfig(kubeconfig, &options)
                    .await
                    .map_err(|error| unusable(&error))?
            }
            None if is_given => Config::from_kubeconfig(&options).await.map_err(|error| unusable(&error))?,
            None => Config::infer().await.map_err(|error| unusable(&error))?,
        };
        if let Some(user) = &connection.impersonate {
            config.auth_info.impersonate = Some(user.clone());
        }
        if !connection.impersonate_groups.is_empty() {
            config.auth_info.impersonate_groups = Some(connection.impersonate_groups.clone());
        }
        if config.proxy_url.is_some() && config.proxy_url == proxy_of_environment() {
            let no_proxy = variable(["NO_PROXY", "no_proxy"]).unwrap_or_default();
            let host = config.cluster_url.host().unwrap_or_default();
            let port = config.cluster_url.port_u16().unwrap_or(443);
            config.proxy_url = config.proxy_url.filter(|_| !proxy::is_bypassed(host, port, &no_proxy));
        }
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.default_retry = false;
        config.headers.push((
            USER_AGENT,
            HeaderValue::from_static(concat!("kubectl-agentloop/", env!("CARGO_PKG_VERSION"))),
        ));
        let namespace = connection.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| unusable(&error))?;
        Ok(Self { client, namespace, terminal, connection: connection.clone() })
    }

    /// The API of a kind in a namespace.
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The answer to a request.
    pub async fn answer<T>(
        &self,
        request: Request<'_>,
        answer: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Failure> {
        match time::timeout(TIMEOUT, answer).await {
            Ok(answer) => answer.map_err(|error| request.failed(&error)),
            Err(_) => Err(Failure::new(format!(
                "cannot {request}: no answer from the API server within {} s",
                TIMEOUT.as_secs()
            ))),
        }
    }

    /// One task.
    pub async fn task<T>(&self, name: &str) -> Result<T, Failure>
    where
        T: DeserializeOwned + Clone + std::fmt::Debug,
    {
        let api: Api<AgentTask> = self.api(&self.namespace);
        let request = Request {
            verb: "get",
            resource: "agenttasks",
            name: Some(name),
            namespace: Some(&self.namespace),
        };
        let read = kube::core::Request::new(api.resource_url())
            .get(name, &kube::api::GetParams::default())
            .map_err(|error| Failure::usage(format!("\"{}\" is not a name: {error}", line(name))))?;
        self.answer(request, self.client.request(read)).await
    }

    /// All tasks of a selection. With `T = AgentTask` they are parsed; `Value` keeps every field.
    pub async fn tasks<T>(&self, selection: &Selection) -> Result<Vec<T>, Failure>
    where
        T: DeserializeOwned + Clone,
    {
        let namespace = (!selection.all_namespaces).then_some(self.namespace.as_str());
        let api: Api<AgentTask> = match namespace {
            Some(namespace) => self.api(namespace),
            None => Api::all(self.client.clone()),
        };
        let mut params = ListParams::default().limit(PAGE);
        params.label_selector.clone_from(&selection.selector);
        let request = Request { verb: "list", resource: "agenttasks", name: None, namespace };
        let mut tasks = Vec::new();
        loop {
            let read = kube::core::Request::new(api.resource_url())
                .list(&params)
                .map_err(|error| Failure::usage(format!("cannot list these tasks: {error}")))?;
            let mut page: Page<T> = self.answer(request, self.client.request(read)).await?;
            tasks.append(&mut page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(tasks),
            }
        }
    }

    /// The pods of a task, if they may be listed.
    pub async fn pods_of(&self, task: &AgentTask) -> Result<Vec<Pod>, Failure> {
        let namespace = task.metadata.namespace.as_deref().unwrap_or(&self.namespace);
        let uid = task.metadata.uid.as_deref().unwrap_or_default();
        let params =
            ListParams::default().labels(&format!("{}={uid}", agentloop_contract::names::LABEL_TASK_UID));
        let request = Request { verb: "list", resource: "pods", name: None, namespace: Some(namespace) };
        let api: Api<Pod> = self.api(namespace);
        Ok(self.answer(request, api.list(&params)).await?.items)
    }

    /// `kubectl` with the flags that choose the same cluster.
    pub fn kubectl(&self) -> String {
        let mut words = vec!["kubectl".to_owned()];
        let connection = &self.connection;
        let file = connection.kubeconfig.as_ref().map(|path| path.to_string_lossy().into_owned());
        for (flag, value) in
            [("--kubeconfig", &file), ("--context", &connection.context), ("--as", &connection.impersonate)]
        {
            if let Some(value) = value {
                words.extend([flag.to_owned(), quoted(value)]);
            }
        }
        for group in &connection.impersonate_groups {
            words.extend(["--as-group".to_owned(), quoted(group)]);
        }
        words.join(" ")
    }
}

/// A word for a shell.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+".contains(c);
    let word = line(word);
    if !word.is_empty() && word.chars().all(plain) {
        word
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// One page of a list.
#[derive(serde::Deserialize)]
struct Page<T> {
    #[serde(default)]
    metadata: PageMetadata,
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Default, serde::Deserialize)]
struct PageMetadata {
    #[serde(default, rename = "continue")]
    continue_: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell_if_they_need_it() {
        assert_eq!(quoted("prod-1"), "prod-1");
        assert_eq!(quoted("it's mine"), "'it'\\''s mine'");
        assert_eq!(quoted(""), "''");
    }
}

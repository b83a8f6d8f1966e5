//! The shipped program as a child process that connects to its own proxy.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

/// Where Debian installs libfaketime.
const FAKETIME: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
];

/// What all operators of a campaign have in common.
#[derive(Clone, Debug)]
pub struct Program {
    /// The program.
    pub path: PathBuf,
    /// The folder for its logs; `None`: no logs.
    pub logs: Option<PathBuf>,
}

/// The path of the library that steps clocks.
pub fn faketime() -> Result<&'static str> {
    match FAKETIME.iter().find(|path| Path::new(path).exists()) {
        Some(path) => Ok(path),
        None => {
            bail!(
                "libfaketime is missing, which steps the operator's clock; run: apt-get install libfaketime"
            )
        }
    }
}

/// One operator. It keeps its address and its clock when it is killed and started again.
pub struct OperatorProcess {
    program: Program,
    name: String,
    /// The watched namespaces, separated by commas. The operator itself is in the first one.
    namespaces: String,
    lease: bool,
    folder: PathBuf,
    /// Whether its clock differs from the machine's, now or later.
    own_clock: bool,
    child: Mutex<Option<Child>>,
    starts: AtomicU32,
}

impl OperatorProcess {
    /// An operator that is not started yet. `address` is that of its proxy.
    pub async fn new(
        program: &Program,
        name: &str,
        namespaces: &str,
        address: SocketAddr,
        folder: &Path,
        lease: bool,
        own_clock: bool,
    ) -> Result<Self> {
        let operator = Self {
            program: program.clone(),
            name: name.to_owned(),
            namespaces: namespaces.to_owned(),
            lease,
            folder: folder.to_owned(),
            own_clock,
            child: Mutex::new(None),
            starts: AtomicU32::new(0),
        };
        let kubeconfig = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{ "name": "c", "cluster": { "server": format!("http://{address}") } }],
            "users": [{ "name": "c", "user": {} }],
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "c", "namespace": operator.own_namespace() } }],
        });
        tokio::fs::write(operator.kubeconfig(), kubeconfig.to_string()).await?;
        Ok(operator)
    }

    fn own_namespace(&self) -> &str {
        self.namespaces.split(',').next().unwrap_or_default()
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.join(format!("{}.kubeconfig", self.name))
    }

    fn clock(&self) -> PathBuf {
        self.folder.join(format!("{}.clock", self.name))
    }

    /// How often it was started.
    pub fn starts(&self) -> u32 {
        self.starts.load(Ordering::Relaxed)
    }

    /// Sets its clock `ahead` seconds ahead. It need not be running.
    pub async fn set_clock(&self, ahead: i64) -> Result<()> {
        // Replaced atomically, because the library reads it whenever the program reads the clock.
        let draft = self.clock().with_extension("draft");
        tokio::fs::write(&draft, format!("{ahead:+}s\n")).await?;
        tokio::fs::rename(&draft, self.clock()).await?;
        Ok(())
    }

    /// Starts it unless it is running.
    pub async fn start(&self) -> Result<()> {
        let mut child = self.child.lock().await;
        if child.is_some() {
            return Ok(());
        }
        let count = self.starts.fetch_add(1, Ordering::Relaxed);
        let mut command = Command::new(&self.program.path);
        command.env_clear().env("KUBECONFIG", self.kubeconfig()).kill_on_drop(true);
        if self.own_clock {
            // The file is read again at every call. The monotonic clock is not changed, as when NTP steps a clock.
            command.env("LD_PRELOAD", faketime()?).env("FAKETIME_TIMESTAMP_FILE", self.clock());
            command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        command.args(["controller", "--http-address", "127.0.0.1:0", "--probe-address", "127.0.0.1:0"]);
        command.args(["--runner-image", "none"]);
        command.args(["--runner-injection", "image-volume", "--log-format", "json"]);
        command.args(["--leader-election", if self.lease { "true" } else { "false" }]);
        command.args(["--namespace", self.own_namespace(), "--watch-namespaces", &self.namespaces]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        match &self.program.logs {
            None => {
                command.args(["--log-level", "off"]).stderr(Stdio::null());
            }
            Some(folder) => {
                let name = format!("{}-{}-{count}.log", self.own_namespace(), self.name);
                let file = std::fs::File::create(folder.join(name))?;
                command.args(["--log-level", "debug,hyper=info,tower=info,kube=info"]).stderr(file);
            }
        }
        let started = command.spawn().with_context(|| format!("starting {}", self.program.path.display()))?;
        *child = Some(started);
        Ok(())
    }

    /// Kills it, and waits until it has ended.
    pub async fn kill(&self) -> Result<()> {
        if let Some(mut running) = self.child.lock().await.take() {
            running.kill().await?;
        }
        Ok(())
    }

    /// Starts it again if it has exited, as its Deployment would.
    pub async fn restart_if_exited(&self) -> Result<()> {
        let mut child = self.child.lock().await;
        if let Some(running) = child.as_mut()
            && running.try_wait()?.is_some()
        {
            *child = None;
            drop(child);
            return self.start().await;
        }
        Ok(())
    }

    /// Freezes the process.
    pub async fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP).await
    }

    /// Resumes the process.
    pub async fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT).await
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.lock().await.as_ref().and_then(Child::id);
        let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid {
            kill_process(pid, signal)?;
        }
        Ok(())
    }

    /// The id of its process.
    pub async fn pid(&self) -> Option<u32> {
        self.child.lock().await.as_ref().and_then(Child::id)
    }
}

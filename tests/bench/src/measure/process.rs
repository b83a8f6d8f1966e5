//! CPU time and memory of a process, as the kernel counts them.

use std::path::Path;

use anyhow::{Context, Result};

use crate::stats::u64_as_f64;

/// A process by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(pub u32);

impl Process {
    /// This process.
    pub fn own() -> Self {
        Self(std::process::id())
    }

    /// Seconds of CPU time so far, of all its threads, ended ones too. In steps of 10 ms.
    pub fn cpu_seconds(self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.0);
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let ticks = cpu_ticks(&text).with_context(|| format!("{path} has no CPU times"))?;
        Ok(u64_as_f64(ticks) / u64_as_f64(rustix::param::clock_ticks_per_second()))
    }

    /// Bytes in memory now.
    pub fn memory(self) -> Result<f64> {
        self.status_bytes("VmRSS:")
    }

    /// The most bytes in memory since its start, or since [`Process::reset_peak`].
    pub fn peak_memory(self) -> Result<f64> {
        self.status_bytes("VmHWM:")
    }

    /// Starts a new measurement of the peak.
    pub fn reset_peak(self) -> Result<()> {
        let path = format!("/proc/{}/clear_refs", self.0);
        std::fs::write(&path, "5").with_context(|| format!("writing {path}"))
    }

    fn status_bytes(self, field: &str) -> Result<f64> {
        let path = format!("/proc/{}/status", self.0);
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let kibibytes = kibibytes(&text, field).with_context(|| format!("{path} has no {field}"))?;
        Ok(u64_as_f64(kibibytes) * 1024.0)
    }

    /// Its command line; empty if it has ended.
    pub fn arguments(self) -> Vec<String> {
        let bytes = std::fs::read(format!("/proc/{}/cmdline", self.0)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        text.split('\0').filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    /// The process of this program whose command line names a file in `folder`.
    pub fn find(program: &str, folder: &Path) -> Result<Self> {
        let inside = format!("{}/", folder.display());
        for entry in std::fs::read_dir("/proc").context("listing /proc")? {
            let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let arguments = Self(id).arguments();
            let is_program = arguments.first().is_some_and(|path| path.rsplit('/').next() == Some(program));
            if is_program && arguments.iter().any(|argument| argument.contains(&inside)) {
                return Ok(Self(id));
            }
        }
        anyhow::bail!("no {program} runs for {}", folder.display())
    }
}

/// The ticks in user and kernel mode: the 14th and 15th field, of which the second can contain spaces.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    user.checked_add(system)
}

fn kibibytes(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_times_are_found_behind_a_name_with_spaces_and_brackets() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194304 100 0 0 0 123 77 0 0 20 0 9 0 100 1000 10";
        assert_eq!(cpu_ticks(stat), Some(200));
        assert_eq!(cpu_ticks("42 nonsense"), None);
    }

    #[test]
    fn this_process_has_used_cpu_time_and_memory_and_is_found_by_its_command_line() {
        let own = Process::own();
        assert!(own.memory().expect("a size") > 1e5);
        assert!(own.peak_memory().expect("a size") >= own.memory().expect("a size") * 0.5);
        assert!(own.cpu_seconds().is_ok());
        assert!(!own.arguments().is_empty());
    }
}

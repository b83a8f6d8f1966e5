//! Keeps credentials out of what the runner writes: its report and its log, and through these the status, Events and
//! the next prompt. The agent's own output, in `kubectl logs` and in transcripts, stays unchanged.
//!
//! It masks the values of environment variables whose names indicate a credential, as they are and as JSON, URLs, forms
//! and base64 write them, and text that has the shape of a well-known token (`shapes`). A text is masked before it is
//! cut, so that no cut leaves half a credential, and before its signature is taken, so that an error stays the same
//! error when its token is renewed.

mod names;
mod shapes;
mod spellings;

use std::{
    collections::{BTreeSet, HashMap},
    ffi::OsString,
    ops::Range,
    path::Path,
    sync::LazyLock,
};

use agentloop_contract::{
    completion_gate::CompletionGate,
    context::Context,
    report::{Error, Report},
};

use crate::output::OutputSummary;

/// Replaces a credential.
pub const MASK: &str = "***";
/// A shorter value is not masked, because that would make texts unreadable.
const SHORTEST: usize = 8;

static OWN: LazyLock<Secrets> = LazyLock::new(|| Secrets::of(std::env::vars_os()));

/// The secrets of the runner's own environment.
pub fn own() -> &'static Secrets {
    &OWN
}

/// The values to mask, by their first bytes.
#[derive(Debug, Default)]
pub struct Secrets {
    values: HashMap<[u8; SHORTEST], Vec<Vec<u8>>>,
}

impl Secrets {
    /// The secrets among environment variables.
    pub fn of(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut all = BTreeSet::new();
        for (name, value) in variables {
            let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
            // The path of an existing file says where a secret is, and is not secret itself.
            if names::indicates_a_credential(&name)
                && !(value.starts_with('/') && Path::new(&*value).exists())
            {
                spellings::add(&value, &mut all);
            } else {
                for password in shapes::passwords_of_urls(&value) {
                    spellings::add(value.get(password).unwrap_or_default(), &mut all);
                }
            }
        }
        let mut values: HashMap<_, Vec<Vec<u8>>> = HashMap::new();
        for value in all {
            if let Some(first) = value.as_bytes().first_chunk() {
                values.entry(*first).or_default().push(value.into_bytes());
            }
        }
        Self { values }
    }

    /// Masks each credential in a text.
    pub fn mask(&self, text: &str) -> String {
        self.cover(text, shapes::find(text))
    }

    /// Masks the last part of a longer text, which may begin within a credential.
    pub fn mask_tail(&self, text: &str) -> String {
        let mut found = shapes::find(text);
        found.extend(self.begun_before(text));
        self.cover(text, found)
    }

    fn cover(&self, text: &str, mut found: Vec<Range<usize>>) -> String {
        for (at, first) in text.as_bytes().windows(SHORTEST).enumerate() {
            let rest = text.as_bytes().get(at..).unwrap_or_default();
            let values = <[u8; SHORTEST]>::try_from(first).ok().and_then(|first| self.values.get(&first));
            let longest =
                values.into_iter().flatten().filter(|value| rest.starts_with(value)).map(Vec::len).max();
            found.extend(longest.map(|length| at..at + length));
        }
        found.sort_by_key(|range| range.start);
        let (mut masked, mut done) = (String::with_capacity(text.len()), 0);
        for Range { start, end } in found {
            if start >= done {
                masked.push_str(text.get(done..start).unwrap_or_default());
                masked.push_str(MASK);
            }
            done = done.max(end);
        }
        masked.push_str(text.get(done..).unwrap_or_default());
        masked
    }

    /// The end of a value at the beginning of a text.
    fn begun_before(&self, text: &str) -> Option<Range<usize>> {
        let first = text.as_bytes().first_chunk::<SHORTEST>()?;
        let ends = |value: &Vec<u8>| {
            let mut places = value.windows(SHORTEST).enumerate().filter(|(_, window)| window == first);
            places.find_map(|(at, _)| {
                let end = value.get(at..)?;
                text.as_bytes().starts_with(end).then_some(end.len())
            })
        };
        self.values.values().flatten().filter_map(ends).max().map(|length| 0..length)
    }

    /// Masks the summary of an output.
    pub fn output(&self, output: OutputSummary) -> OutputSummary {
        OutputSummary {
            text: self.mask_tail(&output.text),
            stderr: self.mask_tail(&output.stderr),
            failed: output.failed.map(|text| self.mask(&text)),
            ..output
        }
    }

    /// Masks every text of a report once more: texts that were assembled, such as a gate in JSON, or that come from
    /// elsewhere, such as file names.
    pub fn report(&self, report: &mut Report) {
        let text = |text: &mut String| *text = self.mask(text);
        report.started_in.iter_mut().for_each(text);
        report.files.iter_mut().for_each(text);
        report.gate.iter_mut().for_each(|gate| self.gate(gate));
        report.verify.iter_mut().flat_map(|verify| &mut verify.last_lines).for_each(text);
        if let Some(usage) = &mut report.usage {
            usage.model.iter_mut().chain(&mut usage.cost_usd).for_each(text);
        }
        if let Some(error) = &mut report.error {
            let summary = self.mask(&error.summary);
            if summary != error.summary {
                *error = Error::new(&summary);
            }
        }
    }

    /// Masks the texts of earlier iterations, because an older runner may have reported them.
    pub fn context(&self, context: &mut Context) {
        for past in &mut context.history {
            past.gate.iter_mut().for_each(|gate| self.gate(gate));
            past.error.iter_mut().for_each(|text| *text = self.mask(text));
        }
    }

    fn gate(&self, gate: &mut CompletionGate) {
        let texts = gate.reason.iter_mut().chain(&mut gate.progress).chain(&mut gate.blockers);
        texts.for_each(|text| *text = self.mask(text));
    }
}

/// Writes a line to the runner's own log.
pub fn log(text: impl std::fmt::Display) {
    eprintln!("agentloop-runner: {}", own().mask(&text.to_string()));
}

#[cfg(test)]
mod tests;

//! `lint`.

use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::cli::LintArgs;
use crate::failure::{Failure, exit};
use crate::lint::{Level, check, is_task};
use crate::session::{Terminal, note, print};
use crate::text::{Colour, line};

/// Bytes of a file that are read.
const BYTES: u64 = 16 << 20;

pub(super) fn run(args: &LintArgs, terminal: Terminal) -> Result<u8, Failure> {
    let mut code = exit::OK;
    let mut tasks = 0_usize;
    for file in &args.files {
        let name =
            if file == Path::new("-") { "standard input".to_owned() } else { line(&file.to_string_lossy()) };
        let text = read(file).map_err(|error| Failure::new(format!("cannot read {name}: {error}")))?;
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text)
            .map_err(|error| Failure::new(format!("{name} is not YAML: {}", line(&error.to_string()))))?;
        for task in documents.iter().filter(|document| is_task(document)) {
            tasks = tasks.saturating_add(1);
            let which = task.pointer("/metadata/name").or_else(|| task.pointer("/metadata/generateName"));
            let which = line(which.and_then(Value::as_str).unwrap_or("a task without a name"));
            for found in check(task) {
                let (word, colour) = match found.level {
                    Level::Error => ("error", Colour::Red),
                    Level::Warning => ("warning", Colour::Yellow),
                };
                let word = terminal.style.paint(Some(colour), word);
                print(&[format!("{name}: {which}: {word}: {} {}", line(&found.path), line(&found.text))])?;
                if found.level == Level::Error || args.strict {
                    code = exit::ERROR;
                }
            }
        }
    }
    if tasks == 0 {
        return Err(Failure::new("there is no AgentTask of agentloop.dev/v1alpha1 in these files"));
    }
    if code == exit::OK {
        note(&format!("{tasks} {} checked", if tasks == 1 { "task" } else { "tasks" }));
    }
    Ok(code)
}

fn read(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().take(BYTES).read_to_string(&mut text)?;
    } else {
        std::fs::File::open(file)?.take(BYTES).read_to_string(&mut text)?;
    }
    Ok(text)
}

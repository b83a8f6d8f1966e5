//! The prompt that the agent gets: the user's prompt, followed by a short section on the loop.
//!
//! The same context gives the same bytes. The section never contains a completion gate that could pass for the agent's
//! own: the `ready` of its example is not a boolean.

use std::fmt::Write as _;

use agentloop_contract::{
    completion_gate::{CLOSE, OPEN},
    context::{Context, LoopContext, Past, Policy},
    report::Change,
    text::cut,
};

/// The maximum size of the section on the loop.
pub const SECTION_BYTES: usize = 2048;

/// How many characters of each line of an earlier iteration are shown.
const LINE_CHARS: usize = 200;
/// How many blockers are shown.
const BLOCKERS: usize = 5;

/// How many lock files are named.
const LOCKS: usize = 3;

/// The user's prompt, with the section if the task wants one. `locks` are git's lock files that were left behind.
pub fn render(prompt: &[u8], context: &Context, locks: &[String]) -> Vec<u8> {
    let mut rendered = prompt.to_vec();
    if context.loop_context == LoopContext::InPrompt {
        if !rendered.is_empty() && !rendered.ends_with(b"\n") {
            rendered.push(b'\n');
        }
        rendered.extend_from_slice(section(context, locks).as_bytes());
    }
    rendered
}

/// The section on the loop.
pub fn section(context: &Context, locks: &[String]) -> String {
    let head = head(context);
    let rest = warnings(context) + &completion(context);
    let head =
        head.clone() + &within(&left_locks(locks), SECTION_BYTES.saturating_sub(head.len() + rest.len()));
    let room = SECTION_BYTES.saturating_sub(head.len() + rest.len());
    let last = context.history.first().map(last).unwrap_or_default();
    head + &within(&last, room) + &rest
}

fn head(context: &Context) -> String {
    let workspace = cut(&context.workspace, 100);
    let what_stays = if context.workspace_stays {
        format!(
            "only the workspace, {workspace}, stays. Look at what is there, take the next step, and leave your work in \
             its files"
        )
    } else {
        format!("the workspace, {workspace}, is empty each time")
    };
    format!(
        "\n---\nThis is iteration {} of at most {} of a loop (task {}/{}). Each iteration starts without memory of the \
         others; {what_stays}.\n",
        context.iteration,
        context.max_iterations,
        cut(&context.task.namespace, 63),
        cut(&context.task.name, 63),
    )
}

/// Describes the last iteration, in lines that may be cut from the end.
fn last(past: &Past) -> String {
    let mut text = format!("\nIteration {} ended: {}", past.iteration, cut(&past.outcome, 40));
    if let Some(code) = past.exit_code {
        let _ = write!(text, ", exit code {code}");
    }
    text += match past.changed {
        Change::Changed => ". It changed the workspace.\n",
        Change::Unchanged => ". It changed nothing in the workspace.\n",
        Change::Unknown => ".\n",
    };
    let blockers = past.gate.as_ref().map(|gate| gate.blockers.as_slice()).unwrap_or_default();
    if let Some(error) = past.error.as_ref().filter(|error| blockers.first() != Some(*error)) {
        let _ = writeln!(text, "Its error: {}", cut(error, LINE_CHARS));
    }
    if !blockers.is_empty() {
        text += "Its blockers:\n";
        for blocker in blockers.iter().take(BLOCKERS) {
            let _ = writeln!(text, "- {}", cut(blocker, LINE_CHARS));
        }
    }
    if let Some(gate) = &past.gate {
        for (name, value) in [("Its progress", &gate.progress), ("Its reason", &gate.reason)] {
            if let Some(value) = value {
                let _ = writeln!(text, "{name}: {}", cut(value, LINE_CHARS));
            }
        }
    }
    text
}

/// Names the lock files that a killed git process left behind.
fn left_locks(locks: &[String]) -> String {
    if locks.is_empty() {
        return String::new();
    }
    let mut names: Vec<String> = locks.iter().take(LOCKS).map(|lock| cut(lock, 80)).collect();
    if locks.len() > LOCKS {
        names.push(format!("{} more", locks.len() - LOCKS));
    }
    format!(
        "\nGit lock files existed before this iteration began: {}. No process of this task runs between iterations. Unless \
         another program uses the workspace now, they are stale, and git refuses to write until they are removed.\n",
        names.join(", ")
    )
}

/// Warns the agent before the loop stops, so that it can try a different approach.
fn warnings(context: &Context) -> String {
    let breaker = &context.breaker;
    let mut text = String::new();
    if breaker.consecutive_no_change.saturating_add(1) >= breaker.no_change_threshold {
        text += "\nWARNING: ";
        if breaker.consecutive_no_change > 0 {
            let _ = write!(text, "{} in a row changed nothing. ", iterations(breaker.consecutive_no_change));
        }
        text += "If this one changes nothing in the workspace, the loop stops.\n";
    }
    let same_error = breaker.consecutive_same_error;
    if same_error > 0 && same_error.saturating_add(1) >= breaker.same_error_threshold {
        let _ = writeln!(
            text,
            "\nWARNING: {} in a row ended in the same error. If this one does too, the loop stops. Try a different \
             approach.",
            iterations(same_error)
        );
    }
    text
}

fn iterations(count: i32) -> String {
    if count == 1 { "1 iteration".to_owned() } else { format!("{count} iterations") }
}

fn completion(context: &Context) -> String {
    let verify = context.verify.as_ref().map(|verify| cut(&verify.command.join(" "), 160));
    let checked =
        |then: &str| verify.as_ref().map(|command| format!("{then} `{command}`")).unwrap_or_default();
    match context.policy {
        Policy::Gate => format!(
            "\nEnd your last message with this block, filled in:\n\n{OPEN}\nready: <true or false>\nreason: <one \
             line>\nprogress: <one line: what this iteration achieved>\nblockers:\n  - <what blocks the goal; no line if \
             nothing does>\n{CLOSE}\n\nSet ready to true only when the whole goal is reached and you have verified it{}.\n",
            checked("; this command must then pass:")
        ),
        Policy::ExitCode => {
            format!(
                "\nThe loop ends when the agent exits with code 0{}.\n",
                checked(" and this command passes:")
            )
        }
        Policy::Verify => {
            format!("\nThe loop ends when this command passes after an iteration:{}\n", checked(""))
        }
    }
}

/// As many complete lines as fit.
fn within(text: &str, room: usize) -> String {
    let mut kept = String::new();
    for line in text.split_inclusive('\n') {
        if kept.len() + line.len() > room {
            break;
        }
        kept += line;
    }
    kept
}

#[cfg(test)]
mod tests;

//! The output of iterations whose pods are gone, from the workspace.

use std::collections::BTreeSet;

use agentloop_core::api::AgentTask;
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::logs::{Tried, copy, ruler};
use super::reader::{self as pods, Reader};
use crate::cli::{LogsArgs, Which};
use crate::failure::Failure;
use crate::output;
use crate::reader;
use crate::session::Session;
use crate::text::line;
use crate::transcript::Transcript;

/// Shows the transcripts that are meant, except for those whose pods are there.
pub(super) async fn show(
    session: &Session,
    task: &AgentTask,
    args: &LogsArgs,
    there: &[Tried],
) -> Result<(), Failure> {
    let there: BTreeSet<(i32, i32)> = there.iter().map(Tried::number).collect();
    let records = reader::records(task);
    pods::with(session, task, async |reader: &Reader| {
        let listed = reader.run(&["ls", "-1", "--", &records].map(str::to_owned)).await?;
        let names = String::from_utf8_lossy(&listed.stdout).into_owned();
        let kept: BTreeSet<(i32, i32)> = names.lines().filter_map(reader::record).collect();
        let wanted = chosen(&kept, &there, args.iteration);
        if wanted.is_empty() {
            return Err(Failure::new(format!(
                "the transcripts of {} are no longer in the workspace: {}",
                output::name(task),
                line(listed.stderr.trim())
            )));
        }
        let with_rulers = wanted.len() > 1 || !there.is_empty();
        for number in wanted {
            let file = format!("{records}/{}/output.log", reader::folder(number.0, number.1));
            if with_rulers {
                ruler(session, args, number, "from the workspace")?;
            }
            // Without the option, what the agent wrote could be taken for one.
            let command = match args.tail {
                Some(lines) => vec!["tail".to_owned(), "-n".to_owned(), lines.to_string(), file],
                None => vec!["cat".to_owned(), file],
            };
            let mut transcript = Transcript::new(session.terminal.style, args.raw);
            let bytes = args.raw && !session.terminal.live;
            let read = async |stdout: Box<dyn tokio::io::AsyncRead + Send + Unpin>| {
                copy(stdout.compat(), &mut transcript, bytes).await
            };
            let ((), errors, succeeded) = reader.stream(&command, read).await?;
            if !succeeded {
                return Err(Failure::new(format!(
                    "the transcript of iteration {} cannot be read: {}",
                    number.0,
                    line(errors.trim())
                )));
            }
        }
        Ok(())
    })
    .await
}

/// The attempts whose transcripts are shown.
fn chosen(
    kept: &BTreeSet<(i32, i32)>,
    there: &BTreeSet<(i32, i32)>,
    which: Option<Which>,
) -> BTreeSet<(i32, i32)> {
    match which {
        Some(Which::All) => kept.difference(there).copied().collect(),
        Some(Which::Number(number)) => {
            kept.iter().filter(|(iteration, _)| *iteration == number).copied().collect()
        }
        None => kept.last().copied().into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transcripts_are_chosen_by_iteration_and_not_shown_besides_the_log_of_their_pod() {
        let kept = BTreeSet::from([(1, 0), (2, 0), (2, 1), (3, 0)]);
        let there = BTreeSet::from([(3, 0)]);
        assert_eq!(chosen(&kept, &there, Some(Which::All)), BTreeSet::from([(1, 0), (2, 0), (2, 1)]));
        assert_eq!(chosen(&kept, &there, Some(Which::Number(2))), BTreeSet::from([(2, 0), (2, 1)]));
        assert_eq!(chosen(&kept, &BTreeSet::new(), None), BTreeSet::from([(3, 0)]));
    }
}

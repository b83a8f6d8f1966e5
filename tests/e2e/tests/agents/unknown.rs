//! An agent that agentloop has no parser for.

use agentloop_e2e::{DONE, LIMIT, TaskManifest, TestNamespace, iterations};
use anyhow::{Result, ensure};

use crate::setup::{Tokens, usage};

/// It prints colours, a progress bar and events of its own, and its final text is plain. In iteration 3, it is ready.
const SCRIPT: &str = r#"
iteration=$(sed -n 's/.*This is iteration \([0-9]*\) .*/\1/p')
printf '\033[1mnovel-agent\033[0m 0.0.1\n\033[2K 10%%\r 50%%\r100%%\n'
echo "{\"kind\":\"start\",\"usage\":{\"input_tokens\":7,\"output_tokens\":7}}"
echo "line $iteration" >>text
echo "{\"kind\":\"end\",\"ok\":true}"
ready=false
[ "$iteration" != 3 ] || ready=true
printf 'I wrote line %s.\n\n<COMPLETION_GATE>\nready: %s\nprogress: one line\n' "$iteration" "$ready"
[ "$ready" = true ] || printf 'blockers:\n  - line %s is not the last one\n' "$iteration"
printf '</COMPLETION_GATE>\n'
"#;

#[tokio::test]
async fn a_cli_that_nobody_has_seen_yet_works_as_plain_text() -> Result<()> {
    TestNamespace::own("unknown-agent", &[])
        .await?
        .run(async |ns| {
            ns.create(&TaskManifest::script("novel", SCRIPT, &[]).pvc().max(2)).await?;
            let snapshot = ns.until_state("novel", iterations(2), LIMIT).await?;
            ns.exactly(&snapshot, 2)?;

            ns.paste(&snapshot, "maxIterations").await?;
            let snapshot = ns.until_state("novel", iterations(1), DONE).await?;
            ns.exactly(&snapshot, 3)?;
            let errors = ["1", "2"].map(|line| format!("line {line} is not the last one"));
            ensure!(snapshot.history("error").starts_with(&errors), "{:?}", snapshot.history("error"));
            ensure!(snapshot.history("changed") == ["Changed"; 3], "{:?}", snapshot.history("changed"));
            // Numbers in an unknown format are not guessed at.
            let none: Tokens = [0; 3];
            ensure!(usage(&snapshot) == none, "{:?}", usage(&snapshot));

            let pvc = ns.pvc_of(&snapshot).await?;
            let kept = ns.run_in_pvc(&pvc, "cat /workspace/text").await?;
            ensure!(kept == "line 1\nline 2\nline 3\n", "the PVC contains {kept:?}");
            Ok(())
        })
        .await
}

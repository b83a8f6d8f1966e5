//! What an iteration does and reports, with shell scripts as agents.

#![allow(clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod common;

use std::fs;

use agentloop_contract::{
    completion_gate::NoCompletionGate,
    report::{Change, End, ProviderErrorKind},
};
use common::{RECORDS, RUNNER, TestPod, UID, gate, record};
use serde_json::json;

#[test]
fn a_ready_agent_that_changed_files_is_reported_as_such() {
    let pod = TestPod::new();
    let exit = pod.run(&format!("echo hi > $AGENTLOOP_WORKSPACE/new; {}", gate(true)));
    let report = exit.report();
    assert_eq!((exit.code, report.end, report.exit_code), (Some(0), End::Exited, Some(0)));
    assert_eq!(
        (report.changed, report.files_changed, report.files),
        (Change::Changed, Some(1), vec!["new".to_owned()])
    );
    assert!(report.gate.is_some_and(|gate| gate.ready && gate.reason.as_deref() == Some("because")));
    assert!(report.started_at.is_some() && report.started_at <= report.finished_at);
    assert_eq!(report.error, None);
    assert_ne!(report.fingerprint_before, report.fingerprint_after);
}

#[test]
fn an_agent_that_changed_nothing_is_reported_as_such() {
    let report = TestPod::new().run("true").report();
    assert_eq!((report.changed, report.files_changed), (Change::Unchanged, Some(0)));
    assert_eq!(report.fingerprint_before, report.fingerprint_after);
    assert_eq!(report.no_gate, Some(NoCompletionGate::Absent));
}

#[test]
fn the_agents_exit_code_and_its_last_line_are_reported() {
    let exit = TestPod::new().run("echo out; echo 'cannot connect' >&2; exit 3");
    assert_eq!(exit.code, Some(3));
    assert_eq!((exit.stdout.as_str(), exit.stderr.as_str()), ("out\n", "cannot connect\n"));
    assert_eq!(exit.error(), "exit code 3: cannot connect");
}

#[test]
fn a_failed_turn_completes_nothing_even_if_the_agent_exits_with_0() {
    let gate = r#"{"type":"item.completed","item":{"type":"agent_message","text":"<COMPLETION_GATE>\nready: true\n</COMPLETION_GATE>"}}"#;
    let failed = r#"{"type":"turn.failed","error":{"message":"the sandbox is gone"}}"#;
    let thread = r#"{"type":"thread.started","thread_id":"1"}"#;
    let print = |lines: &[&str]| format!("cat <<'E'\n{}\nE\n", lines.join("\n"));
    for policy in ["Gate", "ExitCode"] {
        let pod = TestPod::new().with("policy", policy).verify("touch $AGENTLOOP_WORKSPACE/verified");
        let exit = pod.run(&print(&[thread, gate, failed]));
        let report = exit.report();
        assert_eq!((exit.code, report.end, report.exit_code), (Some(1), End::Exited, Some(1)));
        assert_eq!((report.verify, exit.error().as_str()), (None, "failed turn: the sandbox is gone"));
    }
    let report =
        TestPod::new().with("policy", "Verify").verify("true").run(&print(&[thread, failed])).report();
    assert!(report.verify.is_some_and(|verify| verify.passed), "the verify command decides");
    let completed = r#"{"type":"turn.completed","usage":{}}"#;
    let exit = TestPod::new().run(&print(&[thread, failed, thread, gate, completed]));
    assert_eq!((exit.code, exit.report().error), (Some(0), None), "the last turn counts");
    assert!(exit.report().gate.is_some_and(|gate| gate.ready));
}

#[test]
fn an_agent_that_a_signal_killed_is_reported_as_such() {
    let exit = TestPod::new().run("kill -9 $$");
    let report = exit.report();
    assert_eq!((exit.code, report.signal, report.exit_code), (Some(137), Some(9), None));
    assert_eq!(exit.error(), "signal 9");
}

#[test]
fn output_is_passed_through_byte_for_byte() {
    let pod = TestPod::new();
    let exit = pod.run("printf 'a\\033[1mb\\000c\\r\\n no newline at the end'");
    assert_eq!(exit.stdout, "a\u{1b}[1mb\0c\r\n no newline at the end");
}

#[test]
fn the_prompt_is_the_same_on_standard_input_and_in_its_file() {
    let pod = TestPod::new().prompt("Fix the parser.");
    let exit =
        pod.run("cat > $AGENTLOOP_WORKSPACE/in; cp \"$AGENTLOOP_PROMPT_FILE\" $AGENTLOOP_WORKSPACE/file");
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let read = pod.read("workspace/in");
    assert_eq!(read, pod.read("workspace/file"));
    assert!(read.starts_with("Fix the parser.\n\n---\nThis is iteration 7 of at most 10"), "{read}");
}

#[test]
fn an_agent_that_echoes_its_prompt_prints_no_gate() {
    let report = TestPod::new().prompt("Do it.").run("cat").report();
    assert_eq!((report.gate, report.no_gate), (None, Some(NoCompletionGate::NoReady)));
}

#[test]
fn without_a_prompt_standard_input_is_empty_and_no_file_is_named() {
    let exit = TestPod::new().run("cat; echo \"[${AGENTLOOP_PROMPT_FILE-unset}]\"");
    assert_eq!(exit.stdout, "[unset]\n");
}

#[test]
fn the_environment_names_task_and_iteration() {
    let pod = TestPod::new();
    let exit = pod.run(
        "echo $AGENTLOOP_TASK $AGENTLOOP_ITERATION $AGENTLOOP_MAX_ITERATIONS; \
         test -r $AGENTLOOP_CONTEXT_FILE && test -d $AGENTLOOP_WORKSPACE && pwd",
    );
    // The folder that the image or the template chose stays the same.
    let folder = fs::canonicalize(pod.path(".")).expect("folder");
    assert_eq!(exit.stdout, format!("default/task 7 10\n{}\n", folder.display()));
}

#[test]
fn an_attempt_runs_once_on_a_workspace_and_the_next_one_runs() {
    let mut pod = TestPod::new();
    let script = "echo ran >> $AGENTLOOP_WORKSPACE/log";
    assert_eq!(pod.run(script).code, Some(0));
    let exit = pod.run(script);
    assert_eq!((exit.code, exit.report().end), (Some(125), End::AlreadyRan));
    assert!(exit.error().starts_with("AlreadyRan: "), "{exit:?}");
    assert_eq!(pod.read("workspace/log"), "ran\n");
    pod = pod.with("attempt", 1);
    assert_eq!(pod.run(script).code, Some(0));
    assert_eq!(pod.read("workspace/log"), "ran\nran\n");
}

#[test]
fn a_command_that_does_not_exist_is_reported() {
    let exit = TestPod::new().exec(&["no-such-agent"]);
    assert_eq!((exit.code, exit.report().end), (Some(127), End::CommandNotFound));
    assert_eq!(exit.error(), "CommandNotFound: no-such-agent is not in the agent's image");
}

#[test]
fn a_command_whose_loader_is_missing_is_reported_as_such() {
    let pod = TestPod::new();
    let script = pod.path("agent");
    fs::write(&script, "#!/no/such/interpreter\n").expect("script");
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("permissions");
    let exit = pod.exec(&[script.to_str().expect("path")]);
    assert_eq!(exit.code, Some(127));
    assert!(exit.stderr.contains("the interpreter or loader that it names does not"), "{exit:?}");
}

#[test]
fn a_command_that_cannot_be_executed_is_reported() {
    let exit = TestPod::new().exec(&["/etc/passwd"]);
    assert_eq!((exit.code, exit.report().end), (Some(126), End::CommandNotFound));
}

#[test]
fn unreadable_inputs_are_a_failure_of_the_runner() {
    let exit = TestPod::new().with("version", 2).run("true");
    assert_eq!((exit.code, exit.report().end), (Some(125), End::RunnerFailed));
    assert!(exit.error().contains("version 2"), "{exit:?}");
    let exit = TestPod::new().with("workspace", "/no/such/folder").run("true");
    assert!(exit.error().contains("/no/such/folder"), "{exit:?}");
}

#[test]
fn a_prompt_that_cannot_be_written_is_a_failure_of_the_runner() {
    let pod = TestPod::new().prompt("x");
    fs::remove_dir(pod.path("scratch")).expect("remove");
    let exit = pod.run("true");
    assert_eq!(exit.report().end, End::RunnerFailed);
    assert!(exit.error().contains("cannot write the prompt"), "{exit:?}");
}

#[test]
fn a_link_in_the_place_of_the_runners_folder_is_not_followed() {
    let pod = TestPod::new();
    std::os::unix::fs::symlink(pod.path("scratch"), pod.path("workspace/.agentloop")).expect("link");
    let exit = pod.run("true");
    assert_eq!(exit.report().end, End::RunnerFailed);
    assert_eq!(fs::read_dir(pod.path("scratch")).expect("folder").count(), 0);
}

#[test]
fn a_workspace_replaced_by_a_link_is_unknown() {
    let pod = TestPod::new();
    let report = pod.run("cd /; rm -rf $AGENTLOOP_WORKSPACE && ln -s / $AGENTLOOP_WORKSPACE").report();
    assert_eq!((report.end, report.changed), (End::Exited, Change::Unknown));
}

#[test]
fn verify_decides_when_the_gate_is_ready() {
    let script = format!("echo x > $AGENTLOOP_WORKSPACE/f; {}", gate(true));
    let pod = TestPod::new().verify("pwd; test -f f && touch built");
    let report = pod.run(&script).report();
    assert!(report.verify.is_some_and(|verify| verify.passed));
    // Changes by the verify command do not count as the agent's.
    assert_eq!(report.files, ["f"]);
    let exit = TestPod::new().verify("echo 'one'; echo 'test b failed' >&2; exit 2").run(&script);
    let verify = exit.report().verify.expect("verify ran");
    assert_eq!((verify.passed, verify.exit_code), (false, Some(2)));
    assert_eq!(verify.last_lines, ["one", "test b failed"]);
    assert_eq!(exit.error(), "test b failed");
    assert_eq!(exit.code, Some(0));
}

#[test]
fn verify_does_not_run_if_the_policys_own_condition_is_not_met() {
    for (policy, script) in
        [("Gate", gate(false)), ("Gate", format!("{}; exit 1", gate(true))), ("ExitCode", "exit 1".into())]
    {
        let report = TestPod::new().with("policy", policy).verify("true").run(&script).report();
        assert_eq!(report.verify, None, "{policy}: {script}");
    }
    for (policy, script) in [("ExitCode", "true"), ("Verify", "exit 1")] {
        let report = TestPod::new().with("policy", policy).verify("true").run(script).report();
        assert!(report.verify.is_some_and(|verify| verify.passed), "{policy}: {script}");
    }
}

#[test]
fn a_verify_command_that_takes_too_long_or_does_not_exist_has_failed() {
    let verify = |command: serde_json::Value| {
        let pod = TestPod::new().with("policy", "Verify").with("graceSeconds", 1).with("verify", command);
        pod.run("true").report().verify.expect("verify ran")
    };
    let late = verify(json!({"command": ["sleep", "1000"], "timeoutSeconds": 1}));
    assert!(late.timed_out && !late.passed);
    let missing = verify(json!({"command": ["no-such-command"], "timeoutSeconds": 60}));
    assert_eq!((missing.passed, missing.exit_code), (false, Some(127)));
}

#[test]
fn a_provider_error_is_read_from_the_stream() {
    let line = r#"{"type":"result","subtype":"success","is_error":true,"api_error_status":401,"result":"Failed to authenticate. API Error: 401"}"#;
    let exit = TestPod::new().run(&format!("echo '{line}'; exit 1"));
    assert_eq!(
        exit.report().provider_refused.map(|refused| refused.kind),
        Some(ProviderErrorKind::Unauthenticated)
    );
    assert_eq!(exit.error(), "exit code 1: Failed to authenticate. API Error: 401");
}

#[test]
fn an_exit_code_may_mean_not_now() {
    let refused =
        |script: &str| TestPod::new().run(script).report().provider_refused.map(|refused| refused.kind);
    assert_eq!(refused("exit 75"), Some(ProviderErrorKind::RateLimited));
    assert_eq!(refused("echo '429 Too Many Requests'; exit 1"), None);
}

#[test]
fn text_that_the_agent_wrote_to_the_termination_log_is_overwritten() {
    let pod = TestPod::new();
    let log = pod.path("termination-log");
    let exit = pod.run(&format!("(while :; do echo lie >> {}; sleep 0.01; done) & sleep 0.1", log.display()));
    assert_eq!(exit.report().end, End::Exited);
}

#[test]
fn a_report_that_does_not_fit_is_not_written_at_all() {
    let exit = TestPod::new().with("reportLimitBytes", 10).run("echo lie > termination-log");
    assert_eq!((exit.code, exit.message.as_str()), (Some(0), ""));
}

#[test]
fn the_output_and_the_full_report_are_kept_in_the_workspace() {
    let pod = TestPod::new().with("attempt", 2).verify("echo checked");
    pod.run(&format!("echo out; echo err >&2; {}", gate(true)));
    let kept = format!("{RECORDS}/0007-2");
    let log = pod.read(&format!("{kept}/output.log"));
    assert!(log.contains("out\n") && log.contains("err\n"), "{log}");
    assert_eq!(pod.read(&format!("{kept}/verify.log")), "checked\n");
    assert!(pod.read(&format!("{kept}/report.json")).contains("\"passed\": true"));
    assert_eq!(pod.read("workspace/.agentloop/.gitignore"), "*\n");
}

#[test]
fn an_iteration_counts_even_if_its_transcript_cannot_be_kept() {
    let pod = TestPod::new();
    let exit =
        pod.run("rm -rf $AGENTLOOP_WORKSPACE/.agentloop; echo > $AGENTLOOP_WORKSPACE/.agentloop; echo x");
    assert_eq!((exit.code, exit.report().end), (Some(0), End::Exited));
}

#[test]
fn it_installs_itself_and_prints_its_version() {
    let pod = TestPod::new();
    let bin = pod.path("a/bin");
    for _ in 0..2 {
        let status = std::process::Command::new(RUNNER).arg("install").arg(&bin).status().expect("install");
        assert!(status.success());
    }
    let names: Vec<_> =
        fs::read_dir(&bin).expect("folder").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["agentloop-runner"]);
    let output =
        std::process::Command::new(bin.join("agentloop-runner")).arg("version").output().expect("version");
    assert!(output.stdout.starts_with(b"agentloop-runner "));
}

#[test]
fn an_empty_workspace_stays_empty_until_the_agent_creates_a_file() {
    let pod = TestPod::new();
    let running = pod.start(
        "cd $AGENTLOOP_WORKSPACE; ls -A; touch first; while ! [ -e .agentloop/ran ]; do sleep 0.01; done; ls .agentloop/ran",
    );
    let exit = running.exit();
    assert_eq!(exit.stdout, format!("{UID}-7-0\n"), "{exit:?}");
    assert_eq!(pod.run("true").report().end, End::AlreadyRan);
}

#[test]
fn an_attempt_that_leaves_the_workspace_empty_is_marked_after_it_has_ended() {
    let pod = TestPod::new();
    pod.run("echo said");
    assert_eq!(pod.read(&record("output.log")), "said\n");
    assert_eq!(pod.run("true").report().end, End::AlreadyRan);
}

#[test]
fn a_refused_attempt_leaves_an_empty_workspace_empty_for_the_next() {
    let pod = TestPod::new();
    let report = pod.run("exit 75").report();
    assert!(report.untouched && report.provider_refused.is_some());
    assert_eq!(fs::read_dir(pod.path("workspace")).expect("folder").count(), 0);
}

#[test]
fn an_attempt_whose_agent_removes_the_runners_folder_is_still_evaluated_and_marked() {
    for script in ["rm -rf .agentloop", "rm -rf ./* .[!.]*", "mv .agentloop gone"] {
        let pod = TestPod::new();
        fs::write(pod.path("workspace/f"), "1").expect("write");
        let exit = pod.run(&format!("cd $AGENTLOOP_WORKSPACE; {script}; echo tidy"));

        assert_eq!((exit.code, exit.report().end), (Some(0), End::Exited), "{exit:?}");
        assert_eq!(pod.read(&record("output.log")), "tidy\n");
        assert!(pod.read(&record("report.json")).contains("Exited"));
        assert_eq!(pod.run("true").report().end, End::AlreadyRan);
    }
}

#[test]
fn two_tasks_have_separate_records() {
    let task = |name: &str, uid: &str| json!({"namespace": "default", "name": name, "uid": uid});
    let mut pod = TestPod::new();
    for (name, uid) in [("one", "u-1"), ("two", "u-2"), ("one", "u-3")] {
        pod = pod.with("task", task(name, uid));
        pod.run(&format!("echo {uid}"));
    }
    for (name, uid) in [("one", "u-1"), ("two", "u-2"), ("one", "u-3")] {
        let log = format!("workspace/.agentloop/{name}-{uid}/iterations/0007/output.log");
        assert_eq!(pod.read(&log), format!("{uid}\n"));
    }
}

#[test]
fn the_oldest_transcripts_and_markers_of_the_same_task_are_removed() {
    let mut pod = TestPod::new().with("transcripts", json!({"iterations": 3, "bytes": 1 << 20}));
    let names = |pod: &TestPod, folder: &str| {
        let mut names: Vec<String> = fs::read_dir(pod.path(folder))
            .expect("folder")
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    for path in ["workspace/.agentloop/other-u/iterations/0001", "workspace/.agentloop/ran"] {
        fs::create_dir_all(pod.path(path)).expect("folder");
    }
    fs::write(pod.path("workspace/.agentloop/ran/other-1-0"), "").expect("write");
    for (iteration, attempt) in [(1, 0), (2, 0), (2, 1), (3, 0), (9, 0), (10, 0)] {
        pod = pod.with("iteration", iteration).with("attempt", attempt);
        pod.run("echo said");
    }
    assert_eq!(names(&pod, RECORDS), ["0003", "0009", "0010"]);
    let pod = pod.with("iteration", 11);
    fs::write(pod.path(&format!("{RECORDS}/notes")), "of a person").expect("write");
    pod.run("echo said");
    assert_eq!(names(&pod, RECORDS), ["0009", "0010", "0011", "notes"]);
    assert_eq!(names(&pod, "workspace/.agentloop/ran"), [format!("{UID}-11-0"), "other-1-0".to_owned()]);
    // By size: the current one stays, whatever its size.
    let pod = pod.with("iteration", 12).with("transcripts", json!({"iterations": 50, "bytes": 10}));
    pod.run("echo said");
    assert_eq!(names(&pod, RECORDS), ["0012", "notes"]);
    assert!(pod.path("workspace/.agentloop/other-u/iterations/0001").exists());
}

#[test]
fn a_refused_attempt_is_reported_untouched_only_if_nothing_was_touched() {
    let pod = TestPod::new();
    fs::create_dir_all(pod.path("workspace/.git/objects")).expect("folder");
    fs::write(pod.path("workspace/.git/HEAD"), "ref: refs/heads/main\n").expect("write");
    fs::write(pod.path("workspace/f"), "1").expect("write");
    let mut attempt = 0;
    let mut pod = pod;
    for (script, untouched) in [
        ("cat f; ls -R . >/dev/null", true),
        ("date >>.agentloop/log", false),
        ("date >>.git/log", false),
        ("touch f", false),
        ("touch new; rm new", false),
        ("true", true),
    ] {
        attempt += 1;
        pod = pod.with("attempt", attempt);
        let report = pod.run(&format!("cd $AGENTLOOP_WORKSPACE; {script}; exit 75")).report();
        assert_eq!((report.changed, report.untouched), (Change::Unchanged, untouched), "{script}");
    }
}

#[test]
fn a_lock_file_that_git_left_is_named_in_prompt_and_log_and_stays() {
    let pod = TestPod::new().prompt("Do it.");
    fs::create_dir_all(pod.path("workspace/.git/objects")).expect("folder");
    fs::write(pod.path("workspace/.git/HEAD"), "ref: refs/heads/main\n").expect("write");
    fs::write(pod.path("workspace/.git/index.lock"), "").expect("write");
    let exit = pod.run("cat");
    assert!(exit.stdout.contains(".git/index.lock"), "{exit:?}");
    assert!(exit.stderr.contains("agentloop-runner: .git/index.lock existed before"), "{exit:?}");
    assert!(pod.path("workspace/.git/index.lock").exists());
}

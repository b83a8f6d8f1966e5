//! Signals, timeouts, orphaned processes, floods of output, and the environments in which a runner may start.

#![allow(clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod common;

use std::{fs, time::Instant};

use agentloop_contract::report::{Change, End};
use common::{AS_PID_1, AS_USER, TestPod, containers, gate, give, is_root, process_with, record, wait_for};

#[test]
fn a_stopped_runner_passes_the_signal_on_and_exits_with_143() {
    let pod = TestPod::new();
    let running = pod.start(
        "cd $AGENTLOOP_WORKSPACE; trap 'touch stopped; exit 5' TERM; touch up; while :; do sleep 0.05; done",
    );
    running.until("up").signal("TERM").until("stopped");
    let exit = running.exit();
    let report = exit.report();
    assert_eq!((exit.code, report.end, report.exit_code), (Some(143), End::Interrupted, Some(5)));
    assert_eq!((report.changed, report.error), (Change::Changed, None));
}

#[test]
fn an_agent_that_exits_with_0_when_it_is_stopped_is_still_interrupted() {
    let pod = TestPod::new().with("policy", "ExitCode").verify("true");
    let running = pod.start(&format!(
        "trap '{}; exit 0' TERM; touch $AGENTLOOP_WORKSPACE/up; while :; do sleep 0.05; done",
        gate(true).replace('\'', "\"")
    ));
    let exit = {
        running.until("up").signal("TERM");
        running
    }
    .exit();
    let report = exit.report();
    assert_eq!((exit.code, report.end, report.verify), (Some(143), End::Interrupted, None));
}

#[test]
fn an_agent_that_does_not_stop_is_killed_after_the_grace_period() {
    let pod = TestPod::new().with("graceSeconds", 1);
    let running = pod.start("trap '' TERM INT; touch $AGENTLOOP_WORKSPACE/up; while :; do sleep 0.05; done");
    running.until("up").signal("INT");
    let exit = running.exit();
    assert_eq!((exit.code, exit.report().end, exit.report().signal), (Some(143), End::Interrupted, Some(9)));
}

#[test]
fn an_iteration_that_takes_too_long_is_stopped_and_its_changes_are_reported() {
    let pod = TestPod::new().with("iterationTimeoutSeconds", 1).with("graceSeconds", 1);
    let exit = pod.run("touch $AGENTLOOP_WORKSPACE/f; trap '' TERM; while :; do sleep 0.05; done");
    let report = exit.report();
    assert_eq!((exit.code, report.end, report.changed), (Some(124), End::TimedOut, Change::Changed));
    assert_eq!(exit.error(), "IterationTimeout");
}

#[test]
fn a_runner_that_is_stopped_early_does_not_start_the_agent() {
    let pod = TestPod::new();
    // Too large to be read before the signal comes. It is sparse and takes no space.
    let large = fs::File::create(pod.path("workspace/large")).expect("file");
    large.set_len(1 << 40).expect("length");
    let running = pod.start("touch $AGENTLOOP_WORKSPACE/ran");
    running.until(".agentloop").signal("TERM");
    let exit = running.exit();
    let report = exit.report();
    assert_eq!((exit.code, report.end, report.started_at), (Some(143), End::Interrupted, None));
    assert!(!pod.path("workspace/ran").exists());
    assert!(!pod.path("workspace/.agentloop/ran").exists());
}

#[test]
fn other_signals_are_passed_on_to_the_agent() {
    let pod = TestPod::new();
    let running = pod
        .start("trap 'echo usr1; exit 0' USR1; touch $AGENTLOOP_WORKSPACE/up; while :; do sleep 0.05; done");
    running.until("up").signal("USR1");
    let exit = running.exit();
    assert_eq!((exit.code, exit.stdout.as_str(), exit.report().end), (Some(0), "usr1\n", End::Exited));
}

#[test]
fn a_running_verify_command_may_finish_after_an_order_to_stop() {
    let pod =
        TestPod::new().with("policy", "ExitCode").verify("touch up; while ! test -f go; do sleep 0.05; done");
    let running = pod.start("true");
    running.until("up").signal("TERM");
    fs::write(pod.path("workspace/go"), "").expect("write");
    let exit = running.exit();
    assert_eq!((exit.code, exit.report().end), (Some(0), End::Exited));
    assert!(exit.report().verify.is_some_and(|verify| verify.passed));
}

#[test]
fn a_verify_command_that_a_stop_killed_has_no_result() {
    let pod =
        TestPod::new().with("policy", "ExitCode").with("graceSeconds", 1).verify("touch up; sleep 1000");
    let running = pod.start("true");
    running.until("up").signal("TERM");
    assert_eq!(running.exit().report().verify, None);
}

#[test]
fn orphaned_processes_neither_block_the_runner_nor_survive_it() {
    for (mark, script) in [
        ("98761", "sleep 98761 & echo done"),
        ("98762", "setsid sleep 98762 & echo done"),
        ("98763", "setsid sh -c 'trap \"\" TERM HUP; setsid sleep 98763 & exit 0' & echo done"),
        ("98764", "sleep 98764 >/dev/null 2>&1 & echo done"),
    ] {
        let begun = Instant::now();
        let exit = TestPod::new().run(script);
        assert_eq!((exit.code, exit.stdout.as_str()), (Some(0), "done\n"), "{script}");
        assert!(!process_with(mark), "{script} left a process");
        assert!(begun.elapsed() < common::PATIENCE / 2);
    }
}

#[test]
fn an_orphaned_process_does_not_change_the_workspace_after_the_report() {
    let pod = TestPod::new();
    let report = pod
        .run("cd $AGENTLOOP_WORKSPACE; (setsid sh -c 'touch up; sleep 3; touch late') >/dev/null 2>&1 & while ! test -f $AGENTLOOP_WORKSPACE/up; do sleep 0.02; done")
        .report();
    assert_eq!(report.files, ["up"]);
}

#[test]
fn a_flood_of_output_does_not_increase_memory() {
    let pod = TestPod::new();
    // A quarter of a GiB without a newline, the same amount that looks like one event, then many lines.
    let running = pod.start(
        "head -c 134217728 /dev/zero | tr '\\0' x; echo; printf '{\"type\":\"'; head -c 67108864 /dev/zero | tr '\\0' y; \
         echo; yes 'a line of a log' | head -c 67108864; echo; printf '<COMPLETION_GATE>\\nready: true\\n</COMPLETION_GATE>\\n'; \
         touch $AGENTLOOP_WORKSPACE/up; while ! test -f $AGENTLOOP_WORKSPACE/go; do sleep 0.05; done",
    );
    let pid = running.child.id();
    let status = format!("/proc/{pid}/status");
    let go = pod.path("workspace/go");
    let peak = std::thread::spawn(move || {
        let up = go.with_file_name("up");
        wait_for("the end of the flood", || up.exists());
        let text = fs::read_to_string(status).expect("status");
        let line = text.lines().find(|line| line.starts_with("VmHWM:")).expect("peak");
        fs::write(go, "").expect("write");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("number")
    });
    let exit = running.exit();
    assert!(exit.report().gate.is_some_and(|gate| gate.ready), "{:?}", exit.message);
    assert_eq!(exit.stdout.len(), 134_217_728 + 1 + 9 + 67_108_864 + 1 + 67_108_864 + 1 + 49);
    let peak = peak.join().expect("peak");
    assert!(peak < 40 << 10, "{peak} KiB");
    let kept = fs::metadata(pod.path(&record("output.log"))).expect("transcript");
    assert!(kept.len() < 2 << 20);
}

#[test]
fn an_agent_does_not_notice_that_the_reader_of_the_output_is_gone() {
    let pod = TestPod::new();
    let mut running = pod.start("yes | head -c 1000000; touch $AGENTLOOP_WORKSPACE/f");
    drop(running.child.stdout.take());
    wait_for("the runner's end", || running.child.try_wait().expect("wait").is_some());
    assert!(pod.path("workspace/f").exists());
    assert!(pod.read("termination-log").contains("\"exitCode\":0"));
}

#[test]
fn it_runs_as_any_user() {
    if !is_root() {
        return;
    }
    let pod = TestPod::new().prompt("x").given();
    // As in a volume. The agent cannot have changed it, so the result is still known.
    fs::create_dir(pod.path("workspace/lost+found")).expect("folder");
    fs::set_permissions(
        pod.path("workspace/lost+found"),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .expect("chmod");
    let exit = pod.start_with(&AS_USER, &["sh", "-c", "id -u; cat >/dev/null"]).exit();
    assert_eq!((exit.code, exit.stdout.as_str()), (Some(0), "54321\n"), "{exit:?}");
    assert_eq!(exit.report().changed, Change::Unchanged);
}

#[test]
fn an_unreadable_file_that_the_agent_could_have_changed_is_unknown() {
    if !is_root() {
        return;
    }
    let run = |script: &str| {
        let pod = TestPod::new();
        fs::write(pod.path("workspace/closed"), "1").expect("write");
        fs::write(pod.path("workspace/foreign"), "1").expect("write");
        give(&pod.path("workspace"), "54321");
        give(&pod.path("workspace/foreign"), "0");
        give(&pod.path("termination-log"), "54321");
        for name in ["closed", "foreign"] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o000);
            fs::set_permissions(pod.path("workspace").join(name), mode).expect("chmod");
        }
        pod.start_with(&AS_USER, &["sh", "-c", script]).exit().report().changed
    };
    assert_eq!(run("true"), Change::Unchanged);
    let opened = "cd $AGENTLOOP_WORKSPACE; chmod 600 closed; printf 2 > closed; chmod 000 closed";
    assert_eq!(run(opened), Change::Unknown);
    assert_eq!(run("echo 2 > $AGENTLOOP_WORKSPACE/new"), Change::Changed);
}

#[test]
fn the_error_for_a_workspace_that_cannot_be_written_says_how_to_fix_it() {
    if !is_root() {
        return;
    }
    let pod = TestPod::new();
    give(&pod.path("termination-log"), "54321");
    let exit = pod.start_with(&AS_USER, &["touch", "ran"]).exit();
    assert_eq!((exit.code, exit.report().end), (Some(125), End::RunnerFailed));
    let error = exit.error();
    assert!(error.contains("uid 54321") && error.contains("fsGroup"), "{error}");
}

/// The runner as PID 1 of a PID namespace, on a root file system in which only the test's folder is writable.
const CONTAINER: &str = r#"
    mount --make-rprivate / && mount -o remount,ro,bind / 2>/dev/null || mount --bind / / && mount -o remount,ro,bind /
    mount --bind "$1" "$1" && mount -o remount,rw,bind "$1"
    shift
    exec "$@"
"#;

#[test]
fn as_pid_1_it_reaps_processes_passes_signals_on_and_leaves_nothing_behind() {
    if !containers() {
        return;
    }
    let pod = TestPod::new();
    let script = "cd $AGENTLOOP_WORKSPACE; setsid sleep 98771 & for i in 1 2 3 4 5 6 7 8 9; do (sleep 0.01 &) ; done; \
                  sleep 0.5; ps -eo stat= 2>/dev/null | grep -c Z > zombies; echo $PPID; exit 4";
    let exit = pod.start_with(&AS_PID_1, &["sh", "-c", script]).exit();
    assert_eq!((exit.code, exit.stdout.as_str()), (Some(4), "1\n"), "{exit:?}");
    assert_eq!(pod.read("workspace/zombies"), "0\n");
    assert!(!process_with("98771"));
}

#[test]
fn as_pid_1_on_a_read_only_root_it_can_be_stopped() {
    if !containers() {
        return;
    }
    let pod = TestPod::new().prompt("x");
    let folder = pod.path("").display().to_string();
    let before = [&AS_PID_1[..], &["--mount", "sh", "-c", CONTAINER, "sh", &folder]].concat();
    let script = "cat >/dev/null; touch /cannot 2>/dev/null && exit 9; touch $AGENTLOOP_WORKSPACE/up; \
                  trap 'exit 0' TERM; while :; do sleep 0.05; done";
    let running = pod.start_with(&before, &["sh", "-c", script]);
    running.until("up");
    let init = running.first_child();
    let status = std::process::Command::new("kill").args(["-s", "TERM", &init]).status().expect("kill");
    assert!(status.success());
    let exit = running.exit();
    assert_eq!((exit.code, exit.report().end), (Some(143), End::Interrupted), "{exit:?}");
}

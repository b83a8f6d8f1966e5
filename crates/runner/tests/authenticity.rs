//! Whether a report can be trusted: which processes can sign one or influence it.

#![allow(clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod common;

use std::{fs, os::unix::fs::PermissionsExt};

use agentloop_contract::{
    mac::{Signature, check},
    report::{Change, End},
};
use common::{AS_PID_1, RunnerExit, TestPod, containers, gate, give, is_root, record};

const KEY: &str = "0123456789abcdef0123456789abcdef";

/// Sets the key as the operator does.
const KEYED: [&str; 2] = ["env", "AGENTLOOP_REPORT_KEY=0123456789abcdef0123456789abcdef"];

fn signature(exit: &RunnerExit) -> Signature {
    check(&exit.message, KEY.as_bytes())
}

#[test]
fn a_report_is_signed_if_the_pod_has_a_key() {
    let pod = TestPod::new();
    let exit = pod.start_with(&KEYED, &["true"]).exit();
    assert_eq!((signature(&exit), exit.report().end), (Signature::Valid, End::Exited), "{exit:?}");
    assert_eq!(signature(&pod.with("attempt", 1).exec(&["true"])), Signature::Absent);
    let without = ["env", "AGENTLOOP_REPORT_KEY="];
    assert_eq!(check(&TestPod::new().start_with(&without, &["true"]).exit().message, b""), Signature::Absent);
}

#[test]
fn a_report_of_an_agent_that_did_not_run_is_signed_too() {
    for (pod, end) in [
        (TestPod::new().with("workspace", "/nowhere"), End::RunnerFailed),
        (TestPod::new().with("iteration", "x"), End::RunnerFailed),
        (TestPod::new(), End::CommandNotFound),
    ] {
        let exit = pod.start_with(&KEYED, &["/no/agent"]).exit();
        assert_eq!((signature(&exit), exit.report().end), (Signature::Valid, end), "{exit:?}");
    }
}

#[test]
fn a_signature_counts_against_the_limit() {
    let script = "printf '<COMPLETION_GATE>\\nready: true\\nreason: '; head -c 5000 /dev/zero | tr '\\0' x; \
                  printf '\\n</COMPLETION_GATE>\\n'";
    let exit = TestPod::new().with("reportLimitBytes", 550).start_with(&KEYED, &["sh", "-c", script]).exit();
    assert!(exit.message.len() <= 550, "{}", exit.message.len());
    assert_eq!(signature(&exit), Signature::Valid);
    assert!(exit.report().gate.is_some_and(|gate| gate.ready));
}

#[test]
fn neither_the_agent_nor_the_verify_command_has_the_key() {
    let search = "env | grep -c REPORT_KEY; tr '\\0' '\\n' </proc/self/environ | grep -c REPORT_KEY";
    let pod = TestPod::new().with("policy", "ExitCode").verify(&format!("({search}) >found; true"));
    let exit = pod.start_with(&KEYED, &["sh", "-c", &format!("{search}; true")]).exit();
    assert_eq!(exit.stdout, "0\n0\n");
    assert_eq!(pod.read("workspace/found"), "0\n0\n");
    assert!(exit.report().verify.is_some_and(|verify| verify.passed));
    let files =
        std::process::Command::new("grep").args(["-r", KEY]).arg(pod.path("")).output().expect("grep");
    assert!(files.stdout.is_empty(), "{files:?}");
}

#[test]
fn an_agent_that_runs_as_root_cannot_read_the_key_either() {
    if !is_root() {
        return;
    }
    // The default capabilities of container runtimes.
    let capabilities = "--bounding-set=-all,+chown,+dac_override,+fsetid,+fowner,+mknod,+net_raw,+setgid,+setuid,\
                        +setfcap,+setpcap,+net_bind_service,+sys_chroot,+kill,+audit_write";
    let before = [&KEYED[..], &["setpriv", capabilities]].concat();
    let script = "id -u; cat /proc/$PPID/environ 2>/dev/null | tr '\\0' '\\n' | grep -c REPORT_KEY";
    let exit = TestPod::new().start_with(&before, &["sh", "-c", script]).exit();
    assert_eq!(exit.stdout, "0\n0\n", "{exit:?}");
}

#[test]
fn a_killed_runner_has_signed_nothing() {
    let pod = TestPod::new();
    let script = format!("{}; kill -s KILL $PPID", gate(true));
    let exit = pod.start_with(&KEYED, &["sh", "-c", &script]).exit();
    assert_eq!((exit.code, exit.message.as_str()), (None, ""), "{exit:?}");
    // The same while the verify command runs.
    let pod = TestPod::new().with("policy", "ExitCode").verify("kill -s KILL $PPID");
    let exit = pod.start_with(&KEYED, &["true"]).exit();
    assert_eq!((exit.code, exit.message.as_str()), (None, ""), "{exit:?}");
}

/// A user without privileges who may become root, as with sudo in many images.
const AS_SUDOER: [&str; 4] = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"];

/// A pod of that user, with a program in its folder that runs commands as root.
fn with_sudo() -> (TestPod, String) {
    let pod = TestPod::new();
    let sudo = pod.path("sudo");
    let found = std::process::Command::new("sh").args(["-c", "command -v setpriv"]).output().expect("sh");
    fs::copy(String::from_utf8_lossy(&found.stdout).trim(), &sudo).expect("copy");
    fs::set_permissions(&sudo, fs::Permissions::from_mode(0o4755)).expect("chmod");
    for name in ["workspace", "scratch", "termination-log"] {
        give(&pod.path(name), "54321");
    }
    (pod, format!("{} --reuid=0 --regid=0 --clear-groups", sudo.display()))
}

#[test]
fn an_agent_gains_no_privileges_if_its_container_forbids_it() {
    if !is_root() {
        return;
    }
    let run = |set: bool| {
        let (pod, sudo) = with_sudo();
        let pod = pod
            .with("noNewPrivileges", set)
            .with("policy", "Verify")
            .verify("grep NoNewPrivs /proc/self/status >verify");
        let script =
            format!("{sudo} id -u 2>/dev/null; grep NoNewPrivs /proc/self/status /proc/$PPID/status");
        let exit = pod.start_with(&AS_SUDOER, &["sh", "-c", &script]).exit();
        (exit.stdout.replace(|c: char| !c.is_ascii_digit(), ""), pod.read("workspace/verify"))
    };
    // Only the agent has the flag, and the verify command does not. The runner's own status is unreadable or without it.
    let (denied, verify) = run(true);
    assert!(denied.starts_with('1'), "{denied}");
    assert_eq!(verify, "NoNewPrivs:\t0\n");
    let (allowed, _) = run(false);
    assert!(allowed.starts_with("00"), "{allowed}: a folder for tests that allows setuid is needed");
}

#[test]
fn an_iteration_with_a_surviving_process_of_another_user_completes_nothing_and_is_charged() {
    if !containers() {
        return;
    }
    let refused = r#"{"type":"system","subtype":"init"}\n{"type":"result","is_error":true,"api_error_status":429,"result":"no"}\n"#;
    for (before, policy, output, exit) in [
        (&AS_PID_1[..], "Gate", gate(true), 0),
        (&AS_PID_1[..], "Verify", "true".to_owned(), 0),
        (&[], "ExitCode", "true".to_owned(), 0),
        (&AS_PID_1[..], "Gate", format!("printf '{refused}'"), 1),
    ] {
        let (pod, sudo) = with_sudo();
        let pod = pod.with("policy", policy).verify("touch verified");
        // Not a child of the agent when the agent ends, in its own session, and out of reach for the agent's user.
        let script = format!(
            "setsid sh -c '{sudo} sh -c \"touch $AGENTLOOP_WORKSPACE/up; exec sleep 20\" &' >/dev/null 2>&1 & \
             while ! test -f $AGENTLOOP_WORKSPACE/up; do sleep 0.02; done; {output}; exit {exit}"
        );
        let before = [before, &KEYED, &AS_SUDOER].concat();
        let exit = pod.start_with(&before, &["sh", "-c", &script]).exit();
        let report = exit.report();
        assert_eq!((report.end, signature(&exit)), (End::RunnerFailed, Signature::Valid), "{exit:?}");
        assert_eq!((report.gate, report.verify, report.provider_refused), (None, None, None));
        assert_eq!((report.changed, report.untouched, exit.code), (Change::Unknown, false, Some(255)));
        assert!(!pod.path("workspace/verified").exists());
        let error = report.error.expect("an error").summary;
        assert!(
            error.starts_with("RunnerFailed: processes of another user could not be killed: pid ")
                && error.contains(", uid 0, \"sleep\""),
            "{error}"
        );
        assert!(exit.stderr.contains("processes of another user"), "{exit:?}");
        assert!(pod.path(&record("report.json")).exists());
    }
}

#[test]
fn a_process_of_another_user_that_survives_the_verify_command_completes_nothing() {
    if !containers() {
        return;
    }
    let (pod, sudo) = with_sudo();
    let pod = pod.with("policy", "Verify").verify(&format!(
        "{sudo} sh -c 'touch up; exec sleep 20' >/dev/null 2>&1 & while ! test -f up; do sleep 0.02; done"
    ));
    let before = [&AS_PID_1[..], &KEYED, &AS_SUDOER].concat();
    let report = pod.start_with(&before, &["true"]).exit().report();
    assert_eq!((report.end, report.verify), (End::RunnerFailed, None));
}

#[test]
fn a_process_that_was_started_from_outside_the_container_counts_too() {
    if !containers() {
        return;
    }
    let (pod, _) = with_sudo();
    let before = [&AS_PID_1[..], &AS_SUDOER].concat();
    let script =
        "touch $AGENTLOOP_WORKSPACE/up; while ! test -f $AGENTLOOP_WORKSPACE/go; do sleep 0.02; done";
    let running = pod.start_with(&before, &["sh", "-c", script]);
    running.until("up");
    // As with `kubectl debug --target`: another user joins.
    let inside = running.first_child();
    let mut joined = std::process::Command::new("nsenter")
        .args(["--target", &inside, "--pid", "sh", "-c"])
        .arg(format!("touch {0}; chown 54321 {0}; exec sleep 20", pod.path("workspace/go").display()))
        .spawn()
        .expect("nsenter, of util-linux");
    let exit = running.exit();
    let _ = joined.kill();
    let _ = joined.wait();
    assert_eq!(exit.report().end, End::RunnerFailed, "{exit:?}");
    assert!(exit.error().contains("started from outside the container"), "{exit:?}");
}

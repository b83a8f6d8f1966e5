//! The kubelet may order the runner to stop, and the agent may not.

#![allow(clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod common;

use std::{fs, process::Command};

use agentloop_contract::report::End;
use common::{AS_PID_1, TestPod, containers};

#[test]
fn a_sigterm_from_inside_is_no_order_to_stop() {
    if !containers() {
        return;
    }
    let script = "trap '' TERM INT; kill -s TERM 1; kill -s INT 1; kill -s TERM -1; sleep 0.2; exit 3";
    let exit = TestPod::new().start_with(&AS_PID_1, &["sh", "-c", script]).exit();
    assert_eq!((exit.code, exit.report().end), (Some(3), End::Exited), "{exit:?}");
    assert_eq!(exit.report().exit_code, Some(3));
}

#[test]
fn a_sigterm_from_inside_is_passed_on_like_any_other_signal() {
    if !containers() {
        return;
    }
    // As in a container without a runner, in which this stops the agent.
    for (signal, code) in [("TERM", 6), ("INT", 7)] {
        let script =
            "trap 'exit 6' TERM; trap 'exit 7' INT; sh -c \"kill -s $0 1\"; while :; do sleep 0.05; done";
        let exit = TestPod::new().start_with(&AS_PID_1, &["sh", "-c", script, signal]).exit();
        assert_eq!((exit.code, exit.report().end), (Some(code), End::Exited), "{exit:?}");
    }
    let exit = TestPod::new().start_with(&AS_PID_1, &["sh", "-c", "kill 1; exec sleep 1000"]).exit();
    assert_eq!((exit.code, exit.error().as_str()), (Some(143), "signal 15"), "{exit:?}");
}

#[test]
fn signals_that_the_agent_sent_before_its_end_do_not_reach_the_verify_command() {
    if !containers() {
        return;
    }
    for _ in 0..5 {
        let pod = TestPod::new().with("policy", "ExitCode").verify("sleep 0.2");
        let script = "trap '' TERM USR1; kill -s TERM 1; kill -s USR1 1";
        let report = pod.start_with(&AS_PID_1, &["sh", "-c", script]).exit().report();
        assert_eq!(report.verify.as_ref().map(|verify| verify.passed), Some(true), "{report:?}");
    }
}

#[test]
fn every_sigterm_is_an_order_to_stop_if_the_runner_is_not_process_1() {
    let exit = TestPod::new().run("trap 'exit 0' TERM; kill -s TERM $PPID; while :; do sleep 0.05; done");
    assert_eq!((exit.code, exit.report().end), (Some(143), End::Interrupted), "{exit:?}");
}

/// Sends signals that claim to come from outside, with every system call that lets the sender set its data.
const FORGER: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(void) {
    int codes[] = {SI_QUEUE, SI_TIMER, SI_MESGQ, SI_ASYNCIO, SI_SIGIO, SI_TKILL, SI_USER, SI_KERNEL, 1};
    int signals[] = {SIGTERM, SIGINT}, sent = 0, refused = 0;
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    int pidfd = syscall(434 /* pidfd_open */, 1, 0);
    for (int s = 0; s < 2; s++) {
        for (unsigned c = 0; c < sizeof codes / sizeof *codes; c++) {
            siginfo_t info;
            memset(&info, 0, sizeof info);
            info.si_signo = signals[s];
            info.si_code = codes[c];
            info.si_pid = 0;
            info.si_uid = 0;
            int calls = 3;
            for (int call = 0; call < calls; call++) {
                long result = call == 0   ? syscall(SYS_rt_sigqueueinfo, 1, signals[s], &info)
                              : call == 1 ? syscall(SYS_rt_tgsigqueueinfo, 1, 1, signals[s], &info)
                                          : syscall(424 /* pidfd_send_signal */, pidfd, signals[s], &info, 0);
                if (result == 0) sent++; else refused++;
                usleep(2000);
            }
        }
        syscall(SYS_tgkill, 1, 1, signals[s]);
        // A pipe that signals its "owner" when it can be read.
        int ends[2];
        if (pipe(ends)) return 9;
        fcntl(ends[0], F_SETOWN, 1);
        fcntl(ends[0], F_SETSIG, signals[s]);
        fcntl(ends[0], F_SETFL, O_ASYNC);
        if (write(ends[1], "x", 1) != 1) return 9;
        usleep(2000);
    }
    printf("%d sent, %d refused\n", sent, refused);
    return 3;
}
"#;

#[test]
fn a_forged_sender_does_not_count_as_outside() {
    if !containers() {
        return;
    }
    let pod = TestPod::new();
    let (source, program) = (pod.path("forger.c"), pod.path("forger"));
    fs::write(&source, FORGER).expect("write");
    let status = Command::new("cc").arg("-o").args([&program, &source]).status().expect("cc");
    assert!(status.success());
    let program = program.display().to_string();
    let exit =
        pod.start_with(&AS_PID_1, &["sh", "-c", &format!("trap '' TERM INT; {program}; exit $?")]).exit();
    // The kernel accepts only the first five codes, from three calls, for two signals.
    assert_eq!(exit.stdout, "30 sent, 24 refused\n", "{exit:?}");
    assert_eq!((exit.code, exit.report().end), (Some(3), End::Exited), "{exit:?}");
}

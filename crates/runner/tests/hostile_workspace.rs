//! Agents that attack the workspace. See docs/threat-model.md for what they can still do.

#![allow(clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod common;

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
};

use agentloop_contract::report::{Change, End};
use common::{AS_USER, RunnerExit, TestPod, UID, containers, gate, is_root, record};

/// Whether the workspace changed.
fn changed(exit: &RunnerExit) -> Change {
    let report = exit.report();
    assert_eq!((exit.code, report.end), (Some(0), End::Exited), "{exit:?}");
    report.changed
}

#[test]
fn a_workspace_that_was_replaced_is_unknown() {
    for place in [
        "ln -s / $W",
        "mkdir ../empty; ln -s ../empty $W",
        "ln -s workspace $W",
        "mkdir $W; cp -a ../copy/. $W",
        "mkfifo $W",
        "echo > $W",
        "true",
    ] {
        let pod = TestPod::new();
        fs::write(pod.path("workspace/f"), "1").expect("write");
        let script = format!("W=$AGENTLOOP_WORKSPACE; cp -a $W copy; cd input; mv $W ../gone; {place}");
        assert_eq!(changed(&pod.run(&script)), Change::Unknown, "{place}");
    }
}

#[test]
fn a_workspace_whose_folder_was_moved_away_is_unknown() {
    let pod = TestPod::new();
    fs::create_dir_all(pod.path("outer/inner")).expect("folder");
    let inner = pod.path("outer/inner").display().to_string();
    let pod = pod.with("workspace", inner);
    let script = "mv outer real; echo x > real/inner/f; mkdir -p outer/inner";
    assert_eq!(changed(&pod.run(script)), Change::Unknown);
}

#[test]
fn new_times_and_reverted_changes_are_no_change() {
    let pod = TestPod::new();
    fs::write(pod.path("workspace/f"), "one").expect("write");
    let script = "cd $AGENTLOOP_WORKSPACE; touch -d 1999-01-01 f .; echo two > f; printf one > f; \
                  mkdir d; touch d/x; rm -r d; chmod 600 f; chmod 644 f; mv f g; mv g f";
    assert_eq!(changed(&pod.run(script)), Change::Unchanged);
}

#[test]
fn a_file_that_changes_while_it_is_read_is_never_unchanged() {
    let pod = TestPod::new();
    let file = pod.path("workspace/n");
    fs::write(&file, "0").expect("write");
    let over = AtomicBool::new(false);
    let exit = std::thread::scope(|scope| {
        // Another container of the pod.
        scope.spawn(|| {
            let mut turn = 0_u64;
            while !over.load(Ordering::Relaxed) {
                turn += 1;
                let next = pod.path("scratch/next");
                fs::write(&next, turn.to_string().repeat(5000))
                    .and_then(|()| fs::rename(&next, &file))
                    .expect("write");
            }
        });
        let script = "n=$AGENTLOOP_WORKSPACE/n; a=$(head -c 50 $n); while [ \"$a\" = \"$(head -c 50 $n)\" ]; do :; done";
        let exit = pod.run(script);
        over.store(true, Ordering::Relaxed);
        exit
    });
    assert_ne!(changed(&exit), Change::Unchanged);
}

#[test]
fn special_files_do_not_block_the_runner() {
    let pod = TestPod::new();
    let script = "cd $AGENTLOOP_WORKSPACE; mkfifo fifo .gitignore; mkdir -p a/.git/objects a/.git/refs b/.git/objects c; \
                  mkfifo a/.git/HEAD a/.git/index a/.git/refs/heads; ln -s /dev/zero b/.git/HEAD; \
                  ln -s /dev/zero b/.git/packed-refs; mkfifo c/.git; ln -s loop loop; \
                  mknod device c 1 5 2>/dev/null; mknod disk b 7 0 2>/dev/null; \
                  touch \"$(printf 'no\\377text')\"; touch \"$(printf 'a line\\nand another')\"";
    let exit = pod.run(script);
    assert_eq!(changed(&exit), Change::Changed);
    assert!(exit.report().files_changed >= Some(6), "{exit:?}");
    // The next attempt finds all of them.
    assert_ne!(changed(&pod.with("attempt", 1).run("true")), Change::Changed);
}

#[test]
fn folders_that_are_too_deep_for_any_path_are_unknown() {
    let name = "d".repeat(200);
    let script = format!(
        "cd $AGENTLOOP_WORKSPACE; i=0; while [ $i -lt 450 ]; do mkdir {name}; cd -P {name}; i=$((i+1)); done; touch f"
    );
    let pod = TestPod::new();
    let exit = pod.exec(&["bash", "-c", &script]);
    assert_eq!(changed(&exit), Change::Unknown);
    // Only a tool that walks by descriptors can remove it.
    let removed = std::process::Command::new("rm").arg("-rf").arg(pod.path("workspace")).status();
    assert!(removed.is_ok_and(|status| status.success()));
}

#[test]
fn very_many_files_are_counted_in_bounded_memory() {
    let script = format!(
        "cd $AGENTLOOP_WORKSPACE; mkdir d; cd d; seq -f a-name-that-is-not-short-%.0f 1 30000 | xargs touch; {}",
        gate(true)
    );
    let pod = TestPod::new().verify("grep VmHWM: /proc/$PPID/status > peak");
    let exit = pod.run(&script);
    assert_eq!((changed(&exit), exit.report().files_changed), (Change::Changed, Some(30_000)));
    let peak = pod.read("workspace/peak");
    let peak: u64 = peak.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("number");
    assert!(peak < 128 << 10, "{peak} KiB");
}

#[test]
fn a_folder_that_the_agent_closed_is_never_unchanged() {
    if !is_root() {
        return;
    }
    let pod = TestPod::new();
    fs::create_dir(pod.path("workspace/d")).expect("folder");
    let pod = pod.given();
    let run = |pod: &TestPod, script: &str| {
        let exit = pod.start_with(&AS_USER, &["sh", "-c", script]).exit();
        changed(&exit)
    };
    assert_ne!(run(&pod, "cd $AGENTLOOP_WORKSPACE; echo x > d/f; chmod 000 d"), Change::Unchanged);
    let pod = pod.with("attempt", 1);
    assert_eq!(run(&pod, "true"), Change::Unknown);
}

/// Runs the rest of the command on a workspace of one megabyte, after a script.
const SMALL: &str =
    r#"mount -t tmpfs -o size=1m,nr_inodes=20,mode=777 none "$1" && eval "$2" && shift 2 && exec "$@""#;

#[test]
fn a_full_workspace_keeps_no_transcript_but_the_iteration_counts() {
    if !containers() {
        return;
    }
    let pod = TestPod::new();
    let workspace = pod.path("workspace").display().to_string();
    let before = ["unshare", "--mount", "sh", "-c", SMALL, "sh", &workspace, "true"];
    let script = format!("cat /dev/zero > $AGENTLOOP_WORKSPACE/fill 2>/dev/null; {}", gate(true));
    let exit = pod.start_with(&before, &["sh", "-c", &script]).exit();
    assert_eq!(changed(&exit), Change::Changed);
    assert!(exit.report().gate.is_some_and(|gate| gate.ready));
    assert!(exit.stderr.contains("cannot save the iteration's records"), "{exit:?}");
}

#[test]
fn nothing_is_run_on_a_workspace_that_is_already_full() {
    if !containers() {
        return;
    }
    let pod = TestPod::new();
    let workspace = pod.path("workspace").display().to_string();
    let fill = r#"{ cat /dev/zero > "$1/fill" || i=0; while mkdir "$1/$i"; do i=$((i+1)); done; } 2>/dev/null; true"#;
    let before = ["unshare", "--mount", "sh", "-c", SMALL, "sh", &workspace, fill];
    let exit = pod.start_with(&before, &["echo", "ran"]).exit();
    assert_eq!((exit.code, exit.report().end, exit.stdout.as_str()), (Some(125), End::RunnerFailed, ""));
}

#[test]
fn whatever_replaces_the_runners_files_is_neither_followed_nor_written_through() {
    for place in ["ln -s ../../outside", "mkfifo", "touch", "ln -s /dev/full"] {
        let pod = TestPod::new();
        fs::create_dir(pod.path("outside")).expect("folder");
        fs::write(pod.path("workspace/f"), "1").expect("write");
        let own = "cd $AGENTLOOP_WORKSPACE/.agentloop";
        let task = format!("task-{UID}");
        // In the place of this iteration's files.
        let exit = pod.run(&format!(
            "{own}; mkdir -p {task}/iterations/0007; echo said; {place} {task}/iterations/0007/output.log"
        ));
        assert_eq!(changed(&exit), Change::Unchanged, "{place}");
        assert_eq!(pod.read(&record("output.log")), "said\n", "{place}");
        // In the place of the folder that contains them.
        let pod = pod.with("iteration", 8);
        let exit = pod.run(&format!("{own}; rm -rf {task}/iterations; {place} {task}/iterations; echo said"));
        assert_eq!(changed(&exit), Change::Unchanged, "{place}");
        // In the place of the markers: the next iteration does not run, because nothing would keep it from running twice.
        let pod = pod.with("iteration", 9);
        assert_eq!(
            changed(&pod.run(&format!("{own}; rm -rf ran; {place} ran"))),
            Change::Unchanged,
            "{place}"
        );
        let exit = pod.with("iteration", 10).run("echo ran");
        assert_eq!((exit.report().end, exit.stdout.as_str()), (End::RunnerFailed, ""), "{place}");
    }
}

#[test]
fn a_forged_marker_of_a_later_attempt_prevents_that_attempt() {
    let pod = TestPod::new();
    fs::write(pod.path("workspace/f"), "1").expect("write");
    let script = "cd $AGENTLOOP_WORKSPACE/.agentloop/ran; for f in *-7-0; do mkdir ${f%-7-0}-8-0; done";
    assert_eq!(changed(&pod.run(script)), Change::Unchanged);
    let exit = pod.with("iteration", 8).run("echo ran");
    assert_eq!((exit.report().end, exit.stdout.as_str()), (End::AlreadyRan, ""));
}

#[test]
fn nothing_that_a_repository_names_is_executed() {
    let pod = TestPod::new().verify("true");
    let trap = pod.path("trap");
    let trap = trap.display();
    fs::create_dir(pod.path("bin")).expect("folder");
    let git = std::env::split_paths(&std::env::var_os("PATH").expect("PATH"))
        .map(|folder| folder.join("git"))
        .find(|git| git.exists())
        .expect("git");
    // A git that is first in the PATH records every call.
    fs::write(pod.path("bin/git"), format!("#!/bin/sh\ntouch {trap}\nexec {} \"$@\"\n", git.display()))
        .expect("git");
    fs::set_permissions(pod.path("bin/git"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("mode");
    let path = format!("PATH={}:{}", pod.path("bin").display(), std::env::var("PATH").expect("PATH"));
    let git = git.display();
    let script = format!(
        "cd $AGENTLOOP_WORKSPACE; {git} init -q .; echo x > f; {git} add f; \
         printf '[core]\\nfsmonitor=touch {trap}\\nhooksPath=.h\\nattributesFile=/dev/zero\\nexcludesFile=/dev/zero\\n\
         [filter \"x\"]\\nclean=touch {trap}\\nrequired=true\\n[include]\\npath=/dev/zero\\n' >> .git/config; \
         echo '* filter=x' > .gitattributes; mkdir .h; printf '#!/bin/sh\\ntouch {trap}\\n' > .h/post-index-change; \
         chmod +x .h/*; {}",
        gate(true)
    );
    let exit = pod.start_with(&["env", &path], &["sh", "-c", &script]).exit();
    assert_eq!(changed(&exit), Change::Changed, "{exit:?}");
    let pod = pod.with("attempt", 1);
    assert_eq!(changed(&pod.start_with(&["env", &path], &["sh", "-c", "true"]).exit()), Change::Unchanged);
    assert!(!pod.path("trap").exists());
}

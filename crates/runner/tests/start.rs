//! The folder in which the agent starts.

#![allow(clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod common;

use std::{fs, os::unix::fs::PermissionsExt};

use agentloop_contract::report::{Change, End};
use common::TestPod;

/// Like a container whose image and template name no folder.
const AT_THE_ROOT: [&str; 3] = ["env", "--chdir=/", "PWD=/"];

fn workspace(pod: &TestPod) -> String {
    fs::canonicalize(pod.path("workspace")).expect("workspace").display().to_string()
}

#[test]
fn an_agent_starts_in_the_workspace_if_nothing_names_a_folder() {
    let pod = TestPod::new().with("startInWorkspace", true);
    let exit = pod.start_with(&AT_THE_ROOT, &["sh", "-c", "pwd -P; printenv PWD"]).exit();
    assert_eq!(exit.stdout, format!("{0}\n{0}\n", workspace(&pod)));
    assert_eq!((exit.report().changed, exit.report().started_in), (Change::Unchanged, None));
}

#[test]
fn a_folder_that_the_image_or_the_template_names_is_used() {
    // Of the image: the container does not start in `/`.
    let pod = TestPod::new().with("startInWorkspace", true);
    let exit = pod.start_with(&["env", "--chdir=/usr"], &["pwd"]).exit();
    assert_eq!((exit.stdout.as_str(), exit.report().started_in.as_deref()), ("/usr\n", Some("/usr")));
    // Of the template, even if it is `/`.
    let exit = TestPod::new().start_with(&AT_THE_ROOT, &["pwd"]).exit();
    assert_eq!((exit.stdout.as_str(), exit.report().started_in.as_deref()), ("/\n", Some("/")));
}

#[test]
fn the_folder_in_which_the_agent_started_is_reported_only_if_it_matters() {
    let started_in = |folder: &str, script: &str| {
        let pod = TestPod::new();
        let folder = folder.replace("WORKSPACE", &workspace(&pod));
        fs::create_dir(pod.path("workspace/below")).expect("folder");
        let chdir = format!("--chdir={folder}");
        pod.start_with(&["env", &chdir], &["sh", "-c", script]).exit().report().started_in
    };
    assert_eq!(started_in("/usr", "true").as_deref(), Some("/usr"));
    assert_eq!(started_in("/usr", "touch $AGENTLOOP_WORKSPACE/new"), None);
    assert_eq!(started_in("WORKSPACE", "true"), None);
    assert_eq!(started_in("WORKSPACE/below", "true"), None);
    assert!(started_in("WORKSPACE/..", "true").is_some());
}

#[test]
fn a_relative_command_is_looked_up_in_the_folder_that_the_container_started_in() {
    let pod = TestPod::new().with("startInWorkspace", true);
    // A program of the same name in the workspace is not meant.
    let agent = pod.path("agent");
    for (path, whose) in [(agent.clone(), "the image's"), (pod.path("workspace/agent"), "the workspace's")] {
        fs::write(&path, format!("#!/bin/sh\necho {whose:?} $(pwd -P) \"$@\"\n")).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    let relative = agent.display().to_string().trim_start_matches('/').to_owned();
    let expected = format!("the image's {} x\n", workspace(&pod));
    let exit = pod.start_with(&AT_THE_ROOT, &[&relative, "x"]).exit();
    assert_eq!(exit.stdout, expected, "{exit:?}");
    let path = format!("PATH={}:/usr/bin:/bin", relative.trim_end_matches("/agent"));
    let before = [&AT_THE_ROOT[..], &[&path]].concat();
    let exit = pod.with("attempt", 1).start_with(&before, &["agent", "x"]).exit();
    assert_eq!(exit.stdout, expected, "{exit:?}");
}

#[test]
fn a_command_that_does_not_exist_is_reported_by_the_name_in_the_template() {
    let pod = TestPod::new().with("startInWorkspace", true);
    let exit = pod.start_with(&AT_THE_ROOT, &["./no/agent"]).exit();
    assert_eq!(exit.report().end, End::CommandNotFound);
    assert!(exit.error().contains("./no/agent is not in the agent's image"), "{exit:?}");
}

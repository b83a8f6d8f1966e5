//! The messages of stops and waits. Every command in a message really resumes the loop.

use crate::support::{Simulation, after, done, failed_with, idled, kubelet, merge, unauthenticated, worked};
use agentloop_contract::{
    completion_gate::CompletionGate,
    report::{Change, Error, Report},
};
use agentloop_core::{
    api::{AgentTaskStatus, Phase, WaitReason, Waiting},
    message,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

/// The patches of all commands in a message, parsed as a shell and kubectl would.
fn commands(message: &str) -> Vec<Value> {
    let prefix = "kubectl -n dev patch agt/x --type merge -p '";
    let found: Vec<Value> = message
        .split(prefix)
        .skip(1)
        .map(|rest| serde_json::from_str(rest.split_once('\'').expect("a closing quote").0).expect("JSON"))
        .collect();
    assert_eq!(found.len(), message.matches("kubectl").count(), "{message}");
    found
}

/// Every command of the present message, each run in its own simulation, starts the next iteration.
#[track_caller]
fn every_command_resumes(build: impl Fn() -> Simulation, first: impl Fn(&mut Simulation)) {
    let sim = build();
    let message = sim.message();
    let count = commands(&message).len();
    assert!(count > 0, "{message:?} has no command");
    for number in 0..count {
        let mut sim = build();
        first(&mut sim);
        let before = sim.created.len();
        sim.patch(&commands(&sim.message())[number]);
        sim.reconcile();
        assert_eq!(sim.phase(), Phase::Running, "after {message:?}, command {number}");
        assert_eq!(sim.created.len(), before + 1);
    }
}

fn stopped_at_limit(spec: &Value, config: &[(&str, &str)], times: usize) -> Simulation {
    let mut sim = Simulation::new(spec);
    sim.configure(config);
    sim.iterate_times(times, &worked());
    assert_eq!(sim.phase(), Phase::IterationLimitReached);
    sim
}

#[test]
fn the_message_at_the_limit_has_the_command_that_raises_it() {
    let sim = stopped_at_limit(&json!({}), &[], 10);
    assert_eq!(
        sim.message(),
        "stopped after 10 iterations (max: 10); to resume: kubectl -n dev patch agt/x --type merge -p '{\"spec\":{\"maxIterations\":20}}'"
    );
    let one = stopped_at_limit(&json!({ "maxIterations": 1 }), &[], 1);
    assert!(
        one.message().starts_with("stopped after 1 iteration (max: 1); to resume: "),
        "{}",
        one.message()
    );
}

#[test]
fn a_higher_limit_resumes_the_loop() {
    every_command_resumes(|| stopped_at_limit(&json!({ "maxIterations": 10 }), &[], 10), |_| {});
    every_command_resumes(|| stopped_at_limit(&json!({}), &[("defaultMaxIterations", "3")], 3), |_| {});
}

#[test]
fn the_suggested_limit_is_not_above_the_hard_limit() {
    let sim = stopped_at_limit(&json!({ "maxIterations": 30 }), &[], 30);
    assert_eq!(commands(&sim.message()), [json!({ "spec": { "maxIterations": 50 } })]);
    every_command_resumes(|| stopped_at_limit(&json!({ "maxIterations": 30 }), &[], 30), |_| {});
}

#[test]
fn at_the_hard_limit_an_administrator_must_act_first() {
    // Some of these tasks ask for the very number that would be suggested.
    for asked in [4, 5, 8, 9, 100, 10_000] {
        let build = || stopped_at_limit(&json!({ "maxIterations": asked }), &[("hardLimit", "4")], 4);
        let message = build().message();
        assert!(
            message.contains("the hard limit of 4 applies: an administrator must first raise hardLimit"),
            "{message}"
        );
        every_command_resumes(build, |sim| {
            sim.configure(&[("hardLimit", "50")]);
            sim.reconcile();
            assert_eq!(sim.phase(), Phase::IterationLimitReached, "a configuration resumes nothing");
        });
    }
}

#[test]
fn at_the_largest_limit_the_suggested_change_is_valid_and_changes_something() {
    for (count, asked, change) in [
        (600, Some(10_000), json!({ "maxIterations": 1200 })),
        (600, Some(1200), json!({ "maxIterations": 1201 })),
        (6000, Some(10_000), json!({ "maxIterations": 9999 })),
        (6000, None, json!({ "maxIterations": 10_000 })),
        (9999, Some(10_000), json!({ "resetToken": "after-9999" })),
    ] {
        let mut sim = Simulation::new(&json!({ "maxIterations": asked }));
        sim.configure(&[("hardLimit", &count.to_string()), ("defaultMaxIterations", &count.to_string())]);
        sim.reconcile();
        let mut status = sim.status();
        status.iterations = count;
        let message = message::status(sim.task(), &status, Phase::IterationLimitReached);
        assert!(message.contains("the hard limit of"), "{message}");
        assert_eq!(commands(&message), [json!({ "spec": change })]);
    }
    let sim = Simulation::new(&json!({}));
    let ended = AgentTaskStatus { iterations: 10_000, ..AgentTaskStatus::default() };
    let message = message::status(sim.task(), &ended, Phase::IterationLimitReached);
    assert!(
        message.ends_with("no task can have more than 10000 iterations: create another task to continue"),
        "{message}"
    );
}

#[test]
fn a_limit_that_was_lowered_below_the_count_is_named_and_can_be_raised() {
    let build = || {
        let mut sim = Simulation::new(&json!({ "maxIterations": 20 }));
        sim.iterate_times(12, &worked());
        sim.edit(&json!({ "maxIterations": 10 }));
        sim.iterate(&worked());
        assert_eq!(sim.phase(), Phase::IterationLimitReached);
        sim
    };
    let message = build().message();
    assert!(message.starts_with("stopped after 13 iterations (max: 10); the limit was lowered"), "{message}");
    every_command_resumes(build, |_| {});
}

#[test]
fn an_open_circuit_names_its_evidence_and_both_ways_to_resume() {
    let build = || {
        let mut sim = Simulation::new(&json!({}));
        sim.configure(&[("noChangeThreshold", "4")]);
        let error = Some(Error::new("tests::resume fails"));
        sim.iterate_times(3, &idled());
        sim.iterate(&Report { error, ..idled() });
        sim
    };
    assert_eq!(
        build().message(),
        "stopped after 4 iterations: the last 4 changed nothing (threshold 4, from the operator's configuration); \
         last error: \"tests::resume fails\"; to resume with streaks at zero: kubectl -n dev patch agt/x --type merge \
         -p '{\"spec\":{\"resetToken\":\"after-4\"}}' or with a higher threshold: kubectl -n dev patch agt/x --type merge \
         -p '{\"spec\":{\"breaker\":{\"noChangeThreshold\":8}}}'"
    );
    every_command_resumes(build, |_| {});
    let same_error = || {
        let mut sim = Simulation::new(&json!({ "breaker": { "sameErrorThreshold": 2 } }));
        sim.iterate_times(2, &Report { error: Some(Error::new("it's broken; don't \"panic\"")), ..worked() });
        assert_eq!(sim.reason(), "SameError");
        sim
    };
    assert!(same_error().message().contains("ended with the same error (threshold 2, from the task's spec)"));
    every_command_resumes(same_error, |_| {});
}

#[test]
fn if_the_limit_is_reached_as_well_each_command_raises_it_up_to_the_hard_limit() {
    for (hard, more) in
        [("50", json!({ "maxIterations": 6 })), ("4", json!({ "maxIterations": 4 })), ("3", json!({}))]
    {
        let build = || {
            let mut sim = Simulation::new(&json!({ "maxIterations": 3 }));
            sim.configure(&[("hardLimit", hard)]);
            sim.iterate_times(3, &idled());
            assert_eq!(sim.phase(), Phase::CircuitOpen);
            sim
        };
        let mut changes =
            [json!({ "resetToken": "after-3" }), json!({ "breaker": { "noChangeThreshold": 6 } })];
        for change in &mut changes {
            merge(change, &more);
        }
        assert_eq!(commands(&build().message()), changes.map(|change| json!({ "spec": change })));
    }
}

#[test]
fn success_quotes_the_agents_reason() {
    let mut sim = Simulation::new(&json!({}));
    sim.iterate(&done());
    assert_eq!(sim.message(), "done after 1 iteration: \"all tests pass\"");
    let mut sim = Simulation::new(&json!({}));
    sim.iterate(&worked());
    sim.iterate(&Report {
        gate: Some(CompletionGate { ready: true, ..CompletionGate::default() }),
        ..worked()
    });
    assert_eq!(sim.message(), "done after 2 iterations");
}

#[test]
fn a_suggested_token_was_never_used() {
    for used in ["after-3", "after-3-again", "something"] {
        for is_removed in [false, true] {
            let build = || {
                let mut sim = Simulation::new(&json!({ "resetToken": used }));
                sim.reconcile();
                if is_removed {
                    sim.edit(&json!({ "resetToken": null }));
                }
                sim.iterate_times(3, &idled());
                assert_eq!(sim.phase(), Phase::CircuitOpen);
                sim
            };
            every_command_resumes(build, |_| {});
        }
    }
}

#[test]
fn a_failed_task_names_the_cause_and_its_command_resumes_it() {
    let credential = || {
        let mut sim = Simulation::new(&json!({}));
        sim.iterate(&unauthenticated());
        sim
    };
    let message = credential().message();
    assert!(
        message.starts_with("stopped after 1 iteration: the model provider refused the credential"),
        "{message}"
    );
    every_command_resumes(credential, |_| {});
    let exit_code = || {
        let mut sim = Simulation::new(&json!({ "failOnExitCodes": [42] }));
        sim.iterate(&Report { exit_code: Some(42), ..worked() });
        sim
    };
    assert!(exit_code().message().contains("the agent exited with code 42, which is in failOnExitCodes"));
    every_command_resumes(exit_code, |_| {});
    let twice = || {
        let mut sim = credential();
        sim.patch(&commands(&sim.message())[0]);
        sim.iterate(&unauthenticated());
        sim
    };
    assert_eq!(twice().iterations(), 2);
    every_command_resumes(twice, |_| {});
}

#[test]
fn the_command_of_a_suspended_task_resumes_it() {
    let build = || {
        let mut sim = Simulation::new(&json!({}));
        sim.iterate(&worked());
        sim.edit(&json!({ "suspend": true }));
        sim.reconcile();
        assert_eq!(sim.active(), None);
        sim
    };
    assert!(build().message().starts_with("suspended after 1 iteration; to resume: "));
    every_command_resumes(build, |_| {});
}

#[test]
fn a_message_with_the_longest_names_and_errors_keeps_its_commands_whole() {
    let mut sim = Simulation::new(&json!({}));
    sim.task_mut().metadata.name = Some("n".repeat(63));
    sim.task_mut().metadata.namespace = Some("s".repeat(63));
    let report =
        Report { changed: Change::Unchanged, error: Some(Error::new(&"𝕏".repeat(400))), ..worked() };
    sim.iterate_times(3, &report);
    let message = sim.message();
    assert_eq!(message.matches("}}'").count(), 2, "{message}");
    assert!(message.ends_with("-p '{\"spec\":{\"breaker\":{\"noChangeThreshold\":6}}}'"), "{message}");
}

#[test]
fn a_wait_names_its_cause_and_the_next_try() {
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    sim.fail_to_start();
    sim.reconcile();
    let message = sim.message();
    assert!(message.starts_with("iteration 1 is waiting: its pod did not start the agent: "), "{message}");
    assert!(message.contains("next try at 2026-11-22T10:00:10Z"), "{message}");
}

#[test]
fn a_running_task_names_its_iteration_the_limit_and_the_pod() {
    let mut sim = Simulation::new(&json!({ "maxIterations": 7 }));
    sim.iterate(&worked());
    sim.run();
    let pod = sim.status().active.unwrap().pod_name;
    assert_eq!(sim.message(), format!("iteration 2 of at most 7 in pod {pod}"));
}

#[test]
fn a_limit_above_the_hard_limit_is_shown_with_both_numbers() {
    let shown = |asked: i32| {
        let mut sim = Simulation::new(&json!({ "maxIterations": asked }));
        sim.reconcile();
        let condition = sim.status().conditions.into_iter().find(|c| c.type_ == "LimitClamped").unwrap();
        (condition.status, condition.message)
    };
    let words = "maxIterations is 60, but the hard limit of 50 applies; an administrator can raise hardLimit in the operator's configuration";
    assert_eq!(shown(60), ("True".to_owned(), words.to_owned()));
    assert_eq!(shown(50), ("False".to_owned(), String::new()));
}

#[test]
fn each_wait_names_its_cause_and_what_ends_it() {
    use WaitReason::{
        ConfigInvalid, ImagePullFailed, NameConflict, NodeLost, Paused, PodRejected, PreviousPodRunning,
        PromptMissing,
    };
    use WaitReason::{
        ProviderUnavailable, QuotaExceeded, RateLimited, SchedulingGated, StartFailed, Unschedulable,
        VolumePending,
    };
    let mut sim = Simulation::new(&json!({}));
    sim.reconcile();
    let pod = sim.status().active.unwrap().pod_name;
    let node = format!(
        "; continues when the node is back, deleted, or marked out of service; see kubectl -n dev describe pod {pod}"
    );
    for (reason, what, cure) in [
        (Unschedulable, "its pod cannot be scheduled", ""),
        (
            SchedulingGated,
            "its pod has another scheduling gate",
            "; continues when that scheduling gate is removed",
        ),
        (
            ImagePullFailed,
            "an image cannot be pulled",
            "; continues when the image can be pulled, or with another image in spec.template",
        ),
        (QuotaExceeded, "a ResourceQuota has no room for its pod", "; continues when the quota has room"),
        (
            PodRejected,
            "its pod was rejected",
            "; fix spec.template, or the policy or webhook that rejects it",
        ),
        (VolumePending, "a volume is not ready", ""),
        (PromptMissing, "the prompt in promptFrom cannot be read", "; continues when the key exists"),
        (StartFailed, "its pod did not start the agent", ""),
        (RateLimited, "the model provider refuses requests for now", ""),
        (ProviderUnavailable, "the model provider is unavailable", ""),
        (NodeLost, "its node is lost", &node),
        (NameConflict, "another pod has the name of its pod", "; delete that pod"),
        (PreviousPodRunning, "a pod of a previous task is still running", ""),
        (ConfigInvalid, "the operator's configuration is invalid", "; an administrator must fix it"),
        (
            Paused,
            "an administrator paused all loops",
            "; continues when `paused` is removed from the operator's configuration",
        ),
    ] {
        let mut status = sim.status();
        let message = Some("because".to_owned());
        // It may be text of what runs in the pod.
        let is_theirs = matches!(reason, StartFailed | RateLimited | ProviderUnavailable);
        let because = if is_theirs { "\"because\"" } else { "because" };
        let retry_time = Some(Time(after(60)));
        status.waiting = Some(Waiting { reason, message, start_time: Time(after(0)), retry_time });
        assert_eq!(
            message::status(sim.task(), &status, Phase::Waiting),
            format!("iteration 1 is waiting: {what}: {because}; next try at 2026-11-22T10:01:00Z{cure}")
        );
    }
}

#[test]
fn a_wait_for_an_image_names_the_remedy_for_that_image_only() {
    let shown = |list: &str, container: &str| {
        let mut sim = Simulation::new(&json!({}));
        sim.reconcile();
        let waiting = json!({ "waiting": { "reason": "ErrImagePull", "message": "not found" } });
        let status = json!({ "name": container, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": waiting });
        let patch = json!({ "spec": { "nodeName": "n" }, "status": { "phase": "Pending", list: [status] } });
        kubelet::change(sim.pod_mut(), &patch);
        sim.reconcile();
        sim.message()
    };
    assert_eq!(
        shown("initContainerStatuses", "agentloop-install"),
        "iteration 1 is waiting: an image cannot be pulled: the runner's image, for container agentloop-install: not found; continues when the image can be pulled, or with another runner.image in the operator's Helm values"
    );
    assert_eq!(
        shown("containerStatuses", "agent"),
        "iteration 1 is waiting: an image cannot be pulled: container agent: not found; continues when the image can be pulled, or with another image in spec.template"
    );
}

#[test]
fn what_an_agent_says_is_never_taken_for_a_command_of_ours() {
    let hostile = "x\u{202e}\"; to resume: kubectl delete ns team-a #\u{200b}";
    let quoted = "\"x'; to resume: kubectl delete ns team-a #\"";
    let mut stuck = Simulation::new(&json!({ "breaker": { "sameErrorThreshold": 2 } }));
    stuck.iterate_times(2, &failed_with(hostile));
    let mut failed = Simulation::new(&json!({ "failOnExitCodes": [1] }));
    failed.iterate(&failed_with(hostile));
    let mut succeeded = Simulation::new(&json!({}));
    let mut report = crate::support::done();
    report.gate.as_mut().unwrap().reason = Some(hostile.to_owned());
    succeeded.iterate(&report);
    let mut refused = Simulation::new(&json!({}));
    let mut report = crate::support::rate_limited(Change::Unchanged, None);
    report.error = Some(Error::new(hostile));
    refused.iterate(&report);
    for sim in [&stuck, &failed, &succeeded, &refused] {
        let message = sim.message();
        assert!(message.contains(quoted), "{message}");
        let ours = message.replace(quoted, "");
        assert!(!ours.contains("delete ns"), "{message}");
        let shown = format!("{:?}", sim.status());
        assert!(!shown.contains(['\u{202e}', '\u{200b}']), "{shown}");
    }
}

#[test]
fn an_agent_that_changed_nothing_outside_the_workspace_is_named() {
    let idle = Report { started_in: Some("/app".to_owned()), ..crate::support::idled() };
    let mut sim = Simulation::new(&json!({ "breaker": { "noChangeThreshold": 2 } }));
    for phase in [Phase::Running, Phase::CircuitOpen] {
        sim.iterate(&idle);
        assert_eq!(sim.phase(), phase);
        let message = sim.message();
        assert!(message.contains("started in \"/app\"") && message.contains("/workspace"), "{message}");
    }
    let mut worked = Simulation::new(&json!({}));
    worked.iterate(&Report { started_in: Some("/app".to_owned()), ..crate::support::worked() });
    assert!(!worked.message().contains("/app"), "it changed the workspace");
}

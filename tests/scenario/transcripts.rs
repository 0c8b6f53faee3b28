//! Golden transcripts: commands in, what the controllers tell out. `UPDATE_EXPECT=1` writes them anew.
//!
//! A line that begins with `> ` is a command; everything else is what happened.

use expect_test::{ExpectFile, expect_file};
use joey::reconcile::decide::Key;
use joey::reconcile::deployment::revision;
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use serde_json::json;

use super::machine::Machine;
use super::user;

const KEY: (&str, &str) = ("default", "web");

fn check(file: ExpectFile) {
    let text = file.data();
    let mut machine = Machine::new();
    let mut output = String::new();
    for line in text.lines() {
        let Some(command) = line.strip_prefix("> ") else {
            // Comments before the first command stay.
            if line.starts_with('#') {
                output.push_str(line);
                output.push('\n');
            }
            continue;
        };
        output.push_str(&format!("> {command}\n"));
        command_(&mut machine, &command.split_whitespace().collect::<Vec<_>>());
        for line in std::mem::take(&mut machine.told) {
            output.push_str(&format!("{line}\n"));
        }
        if command.starts_with("show") {
            output.push_str(&show(&mut machine));
        }
    }
    file.assert_eq(&output);
}

fn command_(machine: &mut Machine, words: &[&str]) {
    let key = Key::new(KEY.0, KEY.1);
    let server = &mut machine.server;
    let mut patch = |patch| server.patch::<Deployment>(&key, &patch, false).map(|_| ()).unwrap();
    match words {
        ["create", replicas, image, surge, unavailable] => {
            let number =
                |text: &str| text.parse::<i32>().map_or_else(|_| json!(text), |n| json!(n));
            let rolling = json!({"maxSurge": number(surge), "maxUnavailable": number(unavailable)});
            let strategy = json!({"type": "RollingUpdate", "rollingUpdate": rolling});
            let made = user::deployment(KEY.0, replicas.parse().unwrap(), image, &strategy);
            server.create(made).unwrap();
        }
        ["create", replicas, image, "Recreate"] => {
            let strategy = json!({"type": "Recreate"});
            let made = user::deployment(KEY.0, replicas.parse().unwrap(), image, &strategy);
            server.create(made).unwrap();
        }
        ["image", image] => patch(user::image(image)),
        ["scale", replicas] => {
            patch(json!({"spec": {"replicas": replicas.parse::<i32>().unwrap()}}));
        }
        ["pause"] => patch(json!({"spec": {"paused": true}})),
        ["resume"] => patch(json!({"spec": {"paused": false}})),
        ["delete"] => server.delete::<Deployment>(&key, None).unwrap(),
        ["crash"] => machine.crash(),
        ["wait", seconds] => {
            machine.run_until_quiet();
            machine.server.now += seconds.parse::<u64>().unwrap();
            machine.run_until_quiet();
        }
        ["run"] => while machine.run_round() {},
        ["show"] => {}
        other => panic!("no such command: {other:?}"),
    }
}

fn show(machine: &mut Machine) -> String {
    let mut text = String::new();
    for deployment in machine.server.deployments.objects.values() {
        let status = deployment.status.clone().unwrap_or_default();
        text.push_str(&format!(
            "        {}  revision {}  {} updated, {} ready, {} available of {}\n",
            deployment.name_any(),
            deployment.annotations().get(revision::REVISION).map_or("-", String::as_str),
            status.updated_replicas.unwrap_or(0),
            status.ready_replicas.unwrap_or(0),
            status.available_replicas.unwrap_or(0),
            status.replicas.unwrap_or(0),
        ));
        for condition in status.conditions.unwrap_or_default() {
            text.push_str(&format!(
                "        {}={} {}: {}\n",
                condition.type_,
                condition.status,
                condition.reason.unwrap_or_default(),
                condition.message.unwrap_or_default()
            ));
        }
    }
    for set in machine.server.replica_sets.objects.values() {
        let spec = set.spec.as_ref().unwrap();
        let image =
            spec.template.as_ref().unwrap().spec.as_ref().unwrap().containers[0].image.clone();
        text.push_str(&format!(
            "        {}  {}  revision {}  {} replicas\n",
            set.name_any(),
            image.unwrap_or_default(),
            revision::of(set),
            spec.replicas.unwrap_or(0),
        ));
    }
    text.push_str(&format!("        {} pods\n", machine.server.pods.objects.len()));
    text
}

#[test]
fn a_new_version_replaces_the_old_one_pod_by_pod() {
    check(expect_file!["roll.txt"]);
}

#[test]
fn a_bad_image_leaves_the_old_pods_and_undo_returns() {
    check(expect_file!["bad-image.txt"]);
}

#[test]
fn recreate_stops_all_before_it_starts_any() {
    check(expect_file!["recreate.txt"]);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_keeps_the_proportion() {
    check(expect_file!["proportional.txt"]);
}

#[test]
fn a_paused_rollout_collects_changes_and_makes_them_once() {
    check(expect_file!["pause.txt"]);
}

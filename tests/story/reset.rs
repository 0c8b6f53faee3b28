//! What `joey reset` leaves of an instance: nothing, and where it cannot know, no word that there is nothing.

use std::fs;
use std::process::Command;

use crate::cluster::Cluster;
use crate::pod::POD;

fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().expect("sh can run");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_reset_knows_the_ranges_that_were_in_force_and_not_only_those_of_its_settings() {
    let mut cluster = Cluster::start("ranges");
    let first = sh("ip rule; ip route");
    assert!(first.contains("10.42.0.0/16"), "{first}");
    assert_eq!(cluster.stop_daemon(), 0);
    cluster.spawn_daemon(&["env", "JOEY_POD_CIDR=10.77.0.0/16", "JOEY_SERVICE_CIDR=10.78.0.0/16"]);
    cluster.wait_for_daemon();
    cluster.apply(POD).ok();
    cluster.wait_running("kangaroo-backend");
    let second = sh("ip rule; ip route");
    assert!(second.contains("10.77.0.0/16") && !second.contains("10.42."), "{second}");
    assert_eq!(cluster.stop_daemon(), 0);
    // By its settings this one knows nothing of 10.77.0.0/16.
    cluster.finish();
}

#[test]
fn a_reset_that_cannot_look_does_not_say_that_nothing_is_left() {
    let mut cluster = Cluster::start("blind");
    assert_eq!(cluster.stop_daemon(), 0);
    let tools = cluster.dir.join("tools");
    fs::create_dir(&tools).unwrap();
    let nft = sh("command -v nft");
    std::os::unix::fs::symlink(nft.trim(), tools.join("nft")).unwrap();
    let mut blind = cluster.joey_command();
    let output = blind.env("PATH", &tools).args(["reset", "--yes"]).output().expect("joey can run");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("cannot be proven") && words.contains("running ip"), "{words}");
    cluster.finish();
}

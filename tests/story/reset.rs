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

/// Whoever names a wrong directory by mistake loses nothing.
#[test]
fn a_reset_removes_nothing_that_joey_has_not_made() {
    let mut cluster = Cluster::start("not-ours");
    let place = cluster.dir.join("elsewhere");
    let joey = |words: &[&str], data: &str, run: &str| {
        let (data, run) = (place.join(data), place.join(run));
        let mut command = cluster.joey_command();
        command
            .env("JOEY_DATA_DIR", data)
            .env("JOEY_RUN_DIR", run)
            .env_remove("JOEY_MANIFESTS_DIR");
        let output = command.args(words).output().expect("joey can run");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (data, run, file, told) in [
        ("etc", "run", "etc/passwd", "is no data directory of joey: it holds passwd"),
        ("srv", "run", "srv/images/holiday.jpg", "is no data directory of joey: it holds images"),
        ("none", "home", "home/thesis.tex", "home/thesis.tex was not made by joey"),
        ("none", "backup", "backup/volumes/disk.img", "backup/volumes was not made by joey"),
    ] {
        let file = place.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "dear").unwrap();
        let before = sh(&format!("find {} | sort", place.display()));
        let (code, words) = joey(&["reset", "--yes"], data, run);
        assert!(code == Some(1) && words.contains(told), "{code:?} {words}");
        assert_eq!(sh(&format!("find {} | sort", place.display())), before);
    }
    let (code, words) = joey(&["serve"], "etc", "run");
    assert!(code == Some(1) && words.contains("is no data directory of joey"), "{code:?} {words}");
    assert_eq!(fs::read_dir(place.join("etc")).unwrap().count(), 1);

    // A real one, in which somebody keeps something of their own.
    let stray = cluster.data_dir().join("notes.txt");
    fs::write(&stray, "dear").unwrap();
    let refused = cluster.joey(&["reset", "--yes"]);
    assert!(refused.stderr.contains("notes.txt was not made by joey"), "{refused:?}");
    assert!(cluster.data_dir().join("store.redb").exists());
    fs::remove_file(&stray).unwrap();

    // One that breaks off has left what tells that the directory is ours, so that the next one goes on.
    assert_eq!(cluster.stop_daemon(), 0);
    let held = cluster.data_dir().join("seccomp");
    fs::create_dir_all(&held).unwrap();
    fs::write(held.join("profile.json"), "{}").unwrap();
    sh(&format!("chattr +i {}/profile.json", held.display()));
    let broken = cluster.joey(&["reset", "--yes"]);
    sh(&format!("chattr -i {}/profile.json", held.display()));
    assert!(broken.code != 0 && broken.stderr.contains("seccomp"), "{broken:?}");
    assert!(cluster.data_dir().join("instance").exists());
    cluster.finish();
}

//! What root does for the person behind sudo.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;

use crate::cluster::Cluster;

#[test]
fn a_merge_behind_sudo_is_the_callers_own() {
    let mut cluster = Cluster::start("sudo");
    let home = cluster.dir.join("ann");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(&cluster.dir, fs::Permissions::from_mode(0o755)).unwrap();
    chown(&home, Some(12_345), Some(23_456)).unwrap();
    let accounts = fs::read_to_string("/etc/passwd").unwrap();
    let ann = format!("ann:x:12345:23456::{}:/bin/sh\n", home.display());
    let passwd = cluster.dir.join("passwd");
    fs::write(&passwd, accounts + &ann).unwrap();
    let mounted = Command::new("mount").arg("--bind").arg(&passwd).arg("/etc/passwd").status();
    assert!(mounted.unwrap().success());
    let merge = |kubeconfig: &str| {
        let mut merge = cluster.joey_command();
        merge.env("SUDO_UID", "12345").env("SUDO_GID", "23456").env("KUBECONFIG", kubeconfig);
        let output = merge.args(["kubeconfig", "--merge"]).output().expect("joey can run");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let elsewhere = home.join("elsewhere");
    for (named, file) in
        [("", home.join(".kube/config")), (elsewhere.to_str().unwrap(), elsewhere.clone())]
    {
        let told = merge(named);
        assert!(told.contains(file.to_str().unwrap()), "{told}");
        let found = fs::metadata(&file).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (12_345, 23_456, 0o600));
        assert!(fs::read_to_string(&file).unwrap().contains("current-context: joey"));
    }
    assert!(!cluster.dir.join("home/.kube/config").exists(), "root's own is left alone");
    assert!(Command::new("umount").arg("/etc/passwd").status().unwrap().success());
    assert_eq!(cluster.stop_daemon(), 0);
    cluster.finish();
}

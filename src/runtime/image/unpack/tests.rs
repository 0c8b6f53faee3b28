use super::*;

/// In tests the binary at /proc/self/exe is the test harness: one of its tests plays the role.
pub(super) fn play_role(command: &mut Command) {
    command
        .args([
            "--exact",
            "runtime::image::unpack::tests::plays_the_confined_process",
            "--nocapture",
            "--test-threads=1",
        ])
        .env("JOEY_TEST_ROLE", confine::ROLE);
}

#[test]
fn plays_the_confined_process() {
    #[allow(clippy::disallowed_methods, reason = "how a test process learns its role")]
    if std::env::var_os("JOEY_TEST_ROLE").is_some_and(|role| role == confine::ROLE) {
        // Not a return: the harness would go on printing and calling what is forbidden by now.
        confine::run_and_exit();
    }
}

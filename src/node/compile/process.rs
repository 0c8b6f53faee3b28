//! What a container executes: `command` and `args` against ENTRYPOINT and CMD (S32), and its directory.
//!
//! Pure.

use k8s_openapi::api::core::v1 as core;

use super::Refusal;
use super::env::Environment;
use crate::runtime::image::ImageConfig;

/// | command | args | runs |
/// |---|---|---|
/// | – | – | ENTRYPOINT CMD |
/// | – | set | ENTRYPOINT args |
/// | set | – | command |
/// | set | set | command args |
pub(super) fn argv(
    container: &core::Container,
    image: &ImageConfig,
    env: &Environment,
) -> Result<Vec<String>, Refusal> {
    let given = |list: &Option<Vec<String>>| -> Option<Vec<String>> {
        let list = list.as_ref().filter(|list| !list.is_empty())?;
        Some(list.iter().map(|text| env.expand(text)).collect())
    };
    let argv = match (given(&container.command), given(&container.args)) {
        (None, None) => [image.entrypoint.as_slice(), image.cmd.as_slice()].concat(),
        (None, Some(args)) => [image.entrypoint.clone(), args].concat(),
        (Some(command), None) => command,
        (Some(command), Some(args)) => [command, args].concat(),
    };
    if argv.first().is_none_or(String::is_empty) {
        return Err(Refusal::container("no command specified".into()));
    }
    if argv.iter().any(|text| text.contains('\0')) {
        return Err(Refusal::container("the command contains a NUL byte".into()));
    }
    Ok(argv)
}

/// `workingDir`, else the image's WORKDIR, else `/`; made absolute.
pub(super) fn cwd(container: &core::Container, image: &ImageConfig) -> String {
    let given = container.working_dir.as_deref().filter(|dir| !dir.is_empty());
    let dir = given.unwrap_or(&image.working_dir);
    if dir.starts_with('/') { dir.to_owned() } else { format!("/{dir}") }
}

/// The number of a signal as `STOPSIGNAL` may write it: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`.
pub(super) fn signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset: i32 =
            if offset.is_empty() { 0 } else { offset.strip_prefix('+')?.parse().ok()? };
        return (0..=30).contains(&offset).then_some(34 + offset);
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        let offset: i32 =
            if offset.is_empty() { 0 } else { offset.strip_prefix('-')?.parse().ok()? };
        return (0..=30).contains(&offset).then_some(64 - offset);
    }
    // signal(7), x86 and ARM.
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let index = NAMES.iter().position(|known| *known == name)?;
    i32::try_from(index + 1).ok()
}

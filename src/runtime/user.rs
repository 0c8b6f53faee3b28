//! What a `USER` of an image means: numbers, from the image's own passwd and group texts.
//!
//! It never opens a file and never asks the host's user database: the texts are data of a stranger.

use thiserror::Error;

/// Largest id: the kernel's `(uid_t)-1` means "unchanged", and Kubernetes takes 0..=2^31-1.
pub const LARGEST: u32 = i32::MAX as u32;

/// Longest line that is looked at; a longer one names nobody.
const LONGEST_LINE: usize = 64 << 10;

/// Numbers of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Groups that list the user as a member, without `gid`; sorted. Empty when a group was asked
    /// for by name.
    pub groups: Vec<u32>,
}

/// Why a user has no number. Worded as containerd and runc do.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UserError {
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    #[error("id {0:?} is outside of 0..=2147483647 (CVE-2024-40635)")]
    OutOfRange(String),
}

/// Resolves `user`, `uid`, `user:group`, `uid:gid` and their mixtures. Empty means root.
pub fn resolve(user: &str, passwd: &[u8], group: &[u8]) -> Result<Identity, UserError> {
    let (user, asked_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = number(user)?;
    let entry = lines(passwd).filter_map(parse_passwd).find(|entry| match number {
        Some(number) => entry.uid == number,
        None => entry.name == user,
    });
    let (uid, primary) = match (&entry, number) {
        (Some(entry), _) => (entry.uid, entry.gid),
        (None, Some(number)) => (number, 0),
        (None, None) => return Err(UserError::NoUser(user.to_owned())),
    };
    if let Some(asked) = asked_group {
        let gid = match self::number(asked)? {
            Some(number) => number,
            None => lines(group)
                .filter_map(parse_group)
                .find(|entry| entry.name == asked)
                .map(|entry| entry.gid)
                .ok_or_else(|| UserError::NoGroup(asked.to_owned()))?,
        };
        return Ok(Identity { uid, gid, groups: Vec::new() });
    }
    let mut groups: Vec<u32> = lines(group)
        .filter_map(parse_group)
        .filter(|group| {
            entry.as_ref().is_some_and(|entry| group.members.split(',').any(|m| m == entry.name))
        })
        .map(|group| group.gid)
        .filter(|gid| *gid != primary)
        .collect();
    groups.sort_unstable();
    groups.dedup();
    Ok(Identity { uid, gid: primary, groups })
}

/// `None` for what is a name: anything but decimal digits with an optional sign.
fn number(text: &str) -> Result<Option<u32>, UserError> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(number) if number <= LARGEST => Ok(Some(number)),
        Ok(_) | Err(_) => Err(UserError::OutOfRange(text.to_owned())),
    }
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn lines(text: &[u8]) -> impl Iterator<Item = &str> {
    text.split(|byte| *byte == b'\n')
        .filter(|line| line.len() <= LONGEST_LINE)
        .filter_map(|line| std::str::from_utf8(line).ok())
}

/// `name:password:uid:gid:…` (passwd(5)); a line that is none is skipped.
fn parse_passwd(line: &str) -> Option<Passwd<'_>> {
    let mut fields = line.split(':');
    let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    Some(Passwd { name, uid: number(uid).ok()??, gid: number(gid).ok()?? })
}

/// `name:password:gid:member,member` (group(5)).
fn parse_group(line: &str) -> Option<Group<'_>> {
    let mut fields = line.split(':');
    let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
    Some(Group { name, gid: number(gid).ok()??, members: fields.next().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] =
        b"root:x:0:0:root:/root:/bin/sh\nbad line\nweb:x:101:102::/:\nbig:x:4294967296:0::/:\n\
        neg:x:-1:0::/:\n";
    const GROUP: &[u8] = b"root:x:0:\nweb:x:102:\nlog:x:7:web,other\nadm:x:4:web\nadm2:x:4:web\n";

    #[test]
    fn users_resolve_as_in_other_runtimes() {
        type Expected<'a> = (u32, u32, &'a [u32]);
        let table: [(&str, Expected<'_>); 9] = [
            ("", (0, 0, &[])),
            ("root", (0, 0, &[])),
            ("0:0", (0, 0, &[])),
            ("web", (101, 102, &[4, 7])),
            ("101", (101, 102, &[4, 7])),
            ("web:log", (101, 7, &[])),
            ("5000", (5000, 0, &[])),
            ("5000:6000", (5000, 6000, &[])),
            ("2147483647", (LARGEST, 0, &[])),
        ];
        for (user, (uid, gid, groups)) in table {
            let expected = Identity { uid, gid, groups: groups.to_vec() };
            assert_eq!(resolve(user, PASSWD, GROUP), Ok(expected), "{user}");
        }
    }

    #[test]
    fn no_spelling_turns_into_root() {
        for user in [
            "4294967296",
            "2147483648",
            "-1",
            "-0",
            "0x0",
            "0:4294967296",
            "99999999999999999999",
            "nobody",
            "big",
            "neg",
            "web:nogroup",
            "0 ",
            " 0",
            "root ",
            "bad line",
            "+",
            "-",
        ] {
            assert!(resolve(user, PASSWD, GROUP).is_err(), "{user:?}");
        }
    }

    #[test]
    fn endless_lines_name_nobody() {
        let mut passwd = b"huge:x:0:0:".to_vec();
        passwd.resize(1 << 20, b'x');
        passwd.extend(b"\nweb:x:5:5::/:\n");
        assert!(resolve("huge", &passwd, b"").is_err());
        assert_eq!(resolve("web", &passwd, b"").unwrap().uid, 5);
    }
}

//! Extended headers of tar: PAX records (POSIX pax, "Extended Header") and what they say about the
//! entry behind them. Pure; unknown records are refused, never passed over.

use super::{EntryError, XATTRS_MAX, printable};

/// What extended headers said about the entry that follows them.
#[derive(Default)]
pub struct Extended {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<(i64, u32)>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub any: bool,
    pub has_pax: bool,
}

impl Extended {
    /// Takes over PAX records, refusing those that mean nothing here.
    pub fn read_pax(&mut self, content: &[u8]) -> Result<(), EntryError> {
        let mut seen = std::collections::BTreeSet::new();
        let mut xattr_bytes = 0;
        for (key, value) in pax_records(content)? {
            if !seen.insert(key) {
                return Err(EntryError::PaxTwice(printable(key)));
            }
            match key {
                b"path" => {
                    if self.path.replace(value.to_vec()).is_some() {
                        return Err(EntryError::ExtendedTwice);
                    }
                }
                b"linkpath" => {
                    if self.link.replace(value.to_vec()).is_some() {
                        return Err(EntryError::ExtendedTwice);
                    }
                }
                b"size" => self.size = Some(decimal(value).ok_or(EntryError::Number("size"))?),
                b"uid" => {
                    let uid = decimal(value).and_then(to_id);
                    self.uid = Some(uid.ok_or(EntryError::Number("uid"))?);
                }
                b"gid" => {
                    let gid = decimal(value).and_then(to_id);
                    self.gid = Some(gid.ok_or(EntryError::Number("gid"))?);
                }
                b"mtime" => {
                    self.mtime = Some(pax_time(value).ok_or(EntryError::Number("mtime"))?);
                }
                // Names are not used (ids are), other times not kept, the rest is prose.
                b"uname"
                | b"gname"
                | b"atime"
                | b"ctime"
                | b"comment"
                | b"charset"
                | b"LIBARCHIVE.creationtime" => {}
                _ if key.starts_with(b"SCHILY.xattr.") => {
                    let name = &key[b"SCHILY.xattr.".len()..];
                    xattr_bytes += name.len() + value.len();
                    if xattr_bytes > XATTRS_MAX {
                        return Err(EntryError::XattrsTooLarge(xattr_bytes));
                    }
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
                // The same attributes a second time, in base64 (bsdtar writes both).
                _ if key.starts_with(b"LIBARCHIVE.xattr.") => {}
                // Windows layers and estargz carry their own notes; none of them changes a tree.
                _ if key.starts_with(b"MSWINDOWS.") => {}
                _ => return Err(EntryError::PaxUnsupported(printable(key))),
            }
        }
        Ok(())
    }
}

/// Key and value.
type Record<'a> = (&'a [u8], &'a [u8]);

/// Splits `LENGTH KEY=VALUE\n` records.
pub fn pax_records(mut content: &[u8]) -> Result<Vec<Record<'_>>, EntryError> {
    let mut records = Vec::new();
    while !content.is_empty() {
        let space =
            content.iter().take(20).position(|byte| *byte == b' ').ok_or(EntryError::Pax)?;
        let length = decimal(&content[..space])
            .and_then(|length| usize::try_from(length).ok())
            .filter(|length| *length > space + 1 && *length <= content.len())
            .ok_or(EntryError::Pax)?;
        let (record, rest) = content.split_at(length);
        let body = record[space + 1..].strip_suffix(b"\n").ok_or(EntryError::Pax)?;
        let equals = body
            .iter()
            .position(|byte| *byte == b'=')
            .filter(|at| *at > 0)
            .ok_or(EntryError::Pax)?;
        records.push((&body[..equals], &body[equals + 1..]));
        content = rest;
    }
    Ok(records)
}

fn pax_time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds = i64::try_from(decimal(seconds.as_bytes())?).ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanoseconds: u32 = format!("{:0<9}", &fraction[..fraction.len().min(9)]).parse().ok()?;
    match (negative, nanoseconds) {
        (false, _) => Some((seconds, nanoseconds)),
        (true, 0) => Some((-seconds, 0)),
        (true, _) => Some((-seconds - 1, 1_000_000_000 - nanoseconds)),
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// (uid_t) -1 means "unchanged" to chown(2) and is nobody's id.
pub fn to_id(value: u64) -> Option<u32> {
    u32::try_from(value).ok().filter(|id| *id != u32::MAX)
}

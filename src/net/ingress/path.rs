//! One spelling for every path, so that rules, policies and pods read the same (security D10).
//!
//! `%2F` and `%5C` stay as they are: they are data inside an element, never separators.

/// Why a path has no meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    #[error("a percent sign in the path is not followed by two hex digits")]
    BadEscape,
    #[error("the path holds a NUL or another control character")]
    Control,
    #[error("the path climbs above its root")]
    AboveRoot,
}

/// RFC 3986 §6.2.2: unreserved characters decoded once, escapes in upper case, dot segments removed; runs of
/// slashes become one. A trailing slash stays, as it tells resources apart.
pub fn normalize(raw: &str) -> Result<String, BadPath> {
    if !raw.starts_with('/') {
        return Err(BadPath::NotAbsolute);
    }
    let decoded = decode_unreserved(raw)?;
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_directory = false;
    for element in decoded[1..].split('/') {
        ends_in_directory = matches!(element, "" | "." | "..");
        match element {
            "" | "." => {}
            ".." => {
                kept.pop().ok_or(BadPath::AboveRoot)?;
            }
            other => kept.push(other),
        }
    }
    let mut path = String::with_capacity(decoded.len());
    for element in &kept {
        path.push('/');
        path.push_str(element);
    }
    if ends_in_directory || kept.is_empty() {
        path.push('/');
    }
    Ok(path)
}

/// Whether nothing would change: the common case, without an allocation.
pub fn is_normal(raw: &str) -> bool {
    let bytes = raw.as_bytes();
    bytes.first() == Some(&b'/')
        && bytes.iter().all(|b| (0x21..0x7f).contains(b) && *b != b'%')
        && bytes.windows(2).all(|pair| pair != b"//" && pair != b"/.")
}

fn decode_unreserved(raw: &str) -> Result<String, BadPath> {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw.chars();
    while let Some(c) = rest.next() {
        if c.is_control() {
            return Err(BadPath::Control);
        }
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut digit = || rest.next().and_then(|c| c.to_digit(16)).ok_or(BadPath::BadEscape);
        let byte = (digit()? * 16 + digit()?) as u8;
        match byte {
            0x00..=0x1f | 0x7f => return Err(BadPath::Control),
            b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            byte if byte.is_ascii_alphanumeric() => out.push(byte as char),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sixty_spellings_have_one_meaning_each() {
        let table: &[(&str, Result<&str, BadPath>)] = &[
            ("/", Ok("/")),
            ("//", Ok("/")),
            ("///", Ok("/")),
            ("/a", Ok("/a")),
            ("/a/", Ok("/a/")),
            ("/a//", Ok("/a/")),
            ("//a", Ok("/a")),
            ("/a//b", Ok("/a/b")),
            ("/a///b/", Ok("/a/b/")),
            ("/./", Ok("/")),
            ("/.", Ok("/")),
            ("/./a", Ok("/a")),
            ("/a/.", Ok("/a/")),
            ("/a/./b", Ok("/a/b")),
            ("/a/..", Ok("/")),
            ("/a/../", Ok("/")),
            ("/a/../b", Ok("/b")),
            ("/a/b/..", Ok("/a/")),
            ("/a/b/../..", Ok("/")),
            ("/a/b/../../c", Ok("/c")),
            ("/a/..//b", Ok("/b")),
            ("/...", Ok("/...")),
            ("/a/...", Ok("/a/...")),
            ("/..a", Ok("/..a")),
            ("/.a", Ok("/.a")),
            ("/a.", Ok("/a.")),
            ("/..", Err(BadPath::AboveRoot)),
            ("/../a", Err(BadPath::AboveRoot)),
            ("/a/../../b", Err(BadPath::AboveRoot)),
            ("/%2e%2e", Err(BadPath::AboveRoot)),
            ("/%2e%2E/a", Err(BadPath::AboveRoot)),
            ("/a/%2e%2e/b", Ok("/b")),
            ("/a/.%2e/b", Ok("/b")),
            ("/a/%2e/b", Ok("/a/b")),
            ("/%61dmin", Ok("/admin")),
            ("/%41", Ok("/A")),
            ("/%7euser", Ok("/~user")),
            ("/%2D%5f", Ok("/-_")),
            ("/a%2fb", Ok("/a%2Fb")),
            ("/a%2Fb", Ok("/a%2Fb")),
            ("/a%5cb", Ok("/a%5Cb")),
            ("/a%2f..%2fb", Ok("/a%2F..%2Fb")),
            ("/%252e%252e/a", Ok("/%252e%252e/a")),
            ("/%25%32%65", Ok("/%252e")),
            ("/a%20b", Ok("/a%20b")),
            ("/a%3fb", Ok("/a%3Fb")),
            ("/a%23b", Ok("/a%23b")),
            ("/a;b=c", Ok("/a;b=c")),
            ("/a;/../b", Ok("/b")),
            ("/%c3%a9", Ok("/%C3%A9")),
            ("/é", Ok("/é")),
            ("/a+b", Ok("/a+b")),
            ("/%00", Err(BadPath::Control)),
            ("/a%00.png", Err(BadPath::Control)),
            ("/%0d%0aX:y", Err(BadPath::Control)),
            ("/%7f", Err(BadPath::Control)),
            ("/\u{1}", Err(BadPath::Control)),
            ("/%", Err(BadPath::BadEscape)),
            ("/%4", Err(BadPath::BadEscape)),
            ("/%zz", Err(BadPath::BadEscape)),
            ("/%u0041", Err(BadPath::BadEscape)),
            ("", Err(BadPath::NotAbsolute)),
            ("a", Err(BadPath::NotAbsolute)),
            ("*", Err(BadPath::NotAbsolute)),
        ];
        for (raw, meaning) in table {
            assert_eq!(normalize(raw).as_deref(), meaning.as_deref(), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn a_normal_path_stays_and_never_climbs(raw in "/[a-c./%2eE5fF]{0,24}") {
            if let Ok(once) = normalize(&raw) {
                prop_assert!(!once.contains("//") && !once.contains("/../") && !once.ends_with("/.."));
                prop_assert_eq!(normalize(&once), Ok(once.clone()));
            }
            if is_normal(&raw) {
                prop_assert_eq!(normalize(&raw), Ok(raw));
            }
        }
    }
}

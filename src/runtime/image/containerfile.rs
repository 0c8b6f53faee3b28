//! Containerfiles: the text into instructions, without running any.
//!
//! Pure. Understood is what makes an image out of files and settings; an instruction that runs something
//! (RUN, ONBUILD, HEALTHCHECK …) is refused by name and line, never skipped.

use std::collections::BTreeMap;

/// One instruction and the line on which it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub number: usize,
    /// As it stands in the file, continuation lines joined.
    pub text: String,
    pub instruction: Instruction,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    From(String),
    Copy(Copy),
    Env(Vec<(String, String)>),
    Arg { name: String, default: Option<String> },
    Workdir(String),
    User(String),
    Expose(Vec<String>),
    Label(Vec<(String, String)>),
    Volume(Vec<String>),
    StopSignal(String),
    Entrypoint(Vec<String>),
    Cmd(Vec<String>),
}

/// COPY, or ADD of local files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    pub sources: Vec<String>,
    pub target: String,
    /// Numeric user and group.
    pub owner: Option<(u32, u32)>,
    pub mode: Option<u32>,
}

/// A line that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Containerfile line {line}: {reason}")]
pub struct Refused {
    pub line: usize,
    pub reason: String,
}

/// Reads a whole file.
///
/// # Errors
/// The first line that is not understood.
pub fn parse(text: &str) -> Result<Vec<Line>, Refused> {
    let mut lines = Vec::new();
    let mut pending: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        // Comments and empty lines may stand inside a continued instruction.
        if line.trim_start().starts_with('#') || (line.trim().is_empty() && pending.is_none()) {
            continue;
        }
        let (number, mut whole) = pending.take().unwrap_or((index + 1, String::new()));
        match line.trim_end().strip_suffix('\\') {
            Some(part) => {
                whole.push_str(part);
                pending = Some((number, whole));
            }
            None => {
                whole.push_str(line);
                lines.push(instruction(number, whole.trim())?);
            }
        }
    }
    if let Some((number, whole)) = pending {
        lines.push(instruction(number, whole.trim())?);
    }
    match lines.iter().find(|line| !matches!(line.instruction, Instruction::Arg { .. })) {
        Some(Line { instruction: Instruction::From(_), .. }) => Ok(lines),
        Some(line) => Err(Refused { line: line.number, reason: "FROM must come first".to_owned() }),
        None => Err(Refused { line: 1, reason: "there is no FROM".to_owned() }),
    }
}

fn instruction(number: usize, text: &str) -> Result<Line, Refused> {
    let refused = |reason: String| Refused { line: number, reason };
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    let name = word.to_ascii_uppercase();
    if rest.is_empty() {
        return Err(refused(format!("{name} needs an argument")));
    }
    let instruction = match name.as_str() {
        "FROM" => match rest.split_whitespace().collect::<Vec<_>>().as_slice() {
            [image] => Instruction::From((*image).to_owned()),
            _ => {
                return Err(refused(
                    "FROM takes one image; stages and --platform are not known".to_owned(),
                ));
            }
        },
        "COPY" | "ADD" => Instruction::Copy(copy(&name, rest).map_err(refused)?),
        "ENV" => Instruction::Env(pairs(rest, true).map_err(refused)?),
        "LABEL" => Instruction::Label(pairs(rest, false).map_err(refused)?),
        "ARG" => {
            let (name, default) = rest.split_once('=').map_or((rest, None), |(n, d)| (n, Some(d)));
            Instruction::Arg {
                name: name.to_owned(),
                default: default.map(|text| unquote(text).to_owned()),
            }
        }
        "WORKDIR" => Instruction::Workdir(unquote(rest).to_owned()),
        "USER" => Instruction::User(unquote(rest).to_owned()),
        "EXPOSE" => Instruction::Expose(rest.split_whitespace().map(str::to_owned).collect()),
        "VOLUME" => Instruction::Volume(match json_words(rest) {
            Some(words) => words,
            None => rest.split_whitespace().map(str::to_owned).collect(),
        }),
        "STOPSIGNAL" => Instruction::StopSignal(rest.to_owned()),
        "ENTRYPOINT" => Instruction::Entrypoint(command(rest)),
        "CMD" => Instruction::Cmd(command(rest)),
        "RUN" => {
            return Err(refused(
                "RUN is not known to this version; build the files first and COPY them".to_owned(),
            ));
        }
        _ => return Err(refused(format!("{name} is not known"))),
    };
    Ok(Line { number, text: text.to_owned(), instruction })
}

fn copy(name: &str, rest: &str) -> Result<Copy, String> {
    let (mut owner, mut mode) = (None, None);
    let mut rest = rest;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = flag.split_once(char::is_whitespace).ok_or("the flag stands alone")?;
        rest = after.trim_start();
        match flag.split_once('=') {
            Some(("chown", value)) => {
                let (user, group) = value.split_once(':').unwrap_or((value, value));
                let number = |text: &str| text.parse::<u32>().ok();
                owner = Some(number(user).zip(number(group)).ok_or_else(|| {
                    format!("--chown={value}: only numbers are known, such as --chown=1000:1000")
                })?);
            }
            Some(("chmod", value)) => {
                let bits = u32::from_str_radix(value, 8).ok().filter(|bits| *bits <= 0o7777);
                mode = Some(
                    bits.ok_or_else(|| format!("--chmod={value}: must be octal, such as 755"))?,
                );
            }
            _ => return Err(format!("{name} --{flag} is not known")),
        }
    }
    let mut words = match json_words(rest) {
        Some(words) => words,
        None => rest.split_whitespace().map(str::to_owned).collect(),
    };
    let target = words.pop().unwrap_or_default();
    if words.is_empty() {
        return Err(format!("{name} needs a source and a target"));
    }
    let archive = |word: &String| {
        [".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst"]
            .iter()
            .any(|end| word.ends_with(end))
    };
    if name == "ADD" {
        if let Some(url) = words.iter().find(|word| word.contains("://")) {
            return Err(format!("ADD of {url}: only local files are known"));
        }
        if let Some(word) = words.iter().find(|word| archive(word)) {
            return Err(format!(
                "ADD of {word} would unpack it, which is not known; use COPY for the file itself"
            ));
        }
    }
    Ok(Copy { sources: words, target, owner, mode })
}

/// `["a", "b"]`; `None` when it is not such a list.
fn json_words(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

/// The exec form, or a shell around the text.
fn command(text: &str) -> Vec<String> {
    json_words(text).unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()])
}

/// `a=b "c"="d e"`, or the old form `name the whole rest`.
fn pairs(text: &str, old_form: bool) -> Result<Vec<(String, String)>, String> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (name, value) =
            text.split_once(char::is_whitespace).ok_or(format!("{text}: must be NAME=VALUE"))?;
        return match old_form {
            true => Ok(vec![(name.to_owned(), value.trim().to_owned())]),
            false => Err(format!("{first}: must be NAME=VALUE")),
        };
    }
    words(text)?
        .into_iter()
        .map(|word| {
            let (name, value) =
                word.split_once('=').ok_or(format!("{word}: must be NAME=VALUE"))?;
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// Splits at blanks that stand outside quotes and takes the quotes off.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), close) if open == close => quote = None,
            (None, '"' | '\'') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => {
                let next = characters.next().ok_or("the text ends with a backslash")?;
                word.get_or_insert_default().push(next);
            }
            (None, blank) if blank.is_whitespace() => words.extend(word.take()),
            (_, other) => word.get_or_insert_default().push(other),
        }
    }
    match quote {
        Some(_) => Err("a quote is not closed".to_owned()),
        None => {
            words.extend(word);
            Ok(words)
        }
    }
}

fn unquote(text: &str) -> &str {
    let inner = |quote| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).unwrap_or(text)
}

/// Replaces `$NAME` and `${NAME}`; an unknown name is empty, `\$` is a dollar.
///
/// # Errors
/// A form such as `${NAME:-x}`.
pub fn expand(text: &str, variables: &BTreeMap<String, String>) -> Result<String, String> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['$', '\\']) {
        expanded.push_str(&rest[..at]);
        let tail = &rest[at..];
        if let Some(after) = tail.strip_prefix("\\$") {
            expanded.push('$');
            rest = after;
            continue;
        }
        let Some(after) = tail.strip_prefix('$') else {
            expanded.push('\\');
            rest = &tail[1..];
            continue;
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, remainder) = match after.strip_prefix('{') {
            Some(inner) => {
                let (name, remainder) =
                    inner.split_once('}').ok_or(format!("{text}: a brace is not closed"))?;
                if !name.chars().all(is_name) {
                    return Err(format!("${{{name}}}: only ${{NAME}} is known"));
                }
                (name, remainder)
            }
            None => after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len())),
        };
        match name.is_empty() {
            true => expanded.push('$'),
            false => expanded.push_str(variables.get(name).map_or("", String::as_str)),
        }
        rest = remainder;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// Whether a path of the context matches a pattern of an ignore file: `*` within a component, `**` across
/// them, `?` one character; a directory's pattern covers what is below it.
pub fn matches(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> =
        pattern.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let path: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    components_match(&pattern, &path)
}

fn components_match(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, _) => true,
        (Some((&"**", rest)), _) => {
            (0..=path.len()).any(|skip| components_match(rest, &path[skip..]))
        }
        (Some((first, rest)), Some((name, below))) => {
            word_matches(first, name) && components_match(rest, below)
        }
        (Some(_), None) => false,
    }
}

/// `*` and `?` within one component.
pub fn word_matches(pattern: &str, word: &str) -> bool {
    let (pattern, word): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), word.chars().collect());
    // The classic two-pointer walk: linear but for the last star.
    let (mut p, mut w) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while w < word.len() {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, w));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == word[w]) {
            p += 1;
            w += 1;
        } else if let Some((at, from)) = star {
            p = at + 1;
            w = from + 1;
            star = Some((at, from + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<Instruction, String> {
        let lines =
            parse(&format!("FROM scratch\n{text}\n")).map_err(|refused| refused.to_string())?;
        Ok(lines[1].instruction.clone())
    }

    #[test]
    fn instructions_are_read_in_all_their_forms() {
        let pairs = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<Vec<_>>()
        };
        let list = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        for (text, expected) in [
            ("ENV A=1 B=\"two words\"", Instruction::Env(pairs(&[("A", "1"), ("B", "two words")]))),
            ("ENV A the whole rest", Instruction::Env(pairs(&[("A", "the whole rest")]))),
            (
                "LABEL \\\n  a=b \\\n  # a comment between\n  c=d",
                Instruction::Label(pairs(&[("a", "b"), ("c", "d")])),
            ),
            ("cmd [\"a\", \"b c\"]", Instruction::Cmd(list(&["a", "b c"]))),
            ("CMD echo hi", Instruction::Cmd(list(&["/bin/sh", "-c", "echo hi"]))),
            ("EXPOSE 80 81/udp", Instruction::Expose(list(&["80", "81/udp"]))),
            (
                "COPY --chown=1:2 --chmod=755 a b /c/",
                Instruction::Copy(Copy {
                    sources: list(&["a", "b"]),
                    target: "/c/".into(),
                    owner: Some((1, 2)),
                    mode: Some(0o755),
                }),
            ),
        ] {
            assert_eq!(one(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_followed_is_refused_with_its_line() {
        for (text, message) in [
            (
                "RUN make",
                "Containerfile line 2: RUN is not known to this version; build the files first and COPY them",
            ),
            ("COPY --from=x a b", "Containerfile line 2: COPY --from=x is not known"),
            (
                "ADD http://x/y /",
                "Containerfile line 2: ADD of http://x/y: only local files are known",
            ),
            (
                "ADD a.tgz /",
                "Containerfile line 2: ADD of a.tgz would unpack it, which is not known; use COPY for the file itself",
            ),
            ("HEALTHCHECK NONE", "Containerfile line 2: HEALTHCHECK is not known"),
            ("ENV A=\"x", "Containerfile line 2: a quote is not closed"),
        ] {
            assert_eq!(one(text).unwrap_err(), message);
        }
        assert_eq!(parse("COPY a b\n").unwrap_err().reason, "FROM must come first");
    }

    #[test]
    fn variables_are_expanded() {
        let variables = BTreeMap::from([("A".to_owned(), "x".to_owned())]);
        for (text, expected) in
            [("$A/${A}b", "x/xb"), ("\\$A$", "$A$"), ("$B.", "."), ("a\\b", "a\\b")]
        {
            assert_eq!(expand(text, &variables).unwrap(), expected);
        }
        assert!(expand("${A:-y}", &variables).is_err());
    }

    #[test]
    fn ignore_patterns_match_as_expected() {
        for (pattern, path, expected) in [
            ("target", "target/a/b", true),
            ("*.log", "a.log", true),
            ("*.log", "a/b.log", false),
            ("**/*.log", "a/b.log", true),
            ("a?c", "abc", true),
            ("a/b", "a", false),
            ("*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaac", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }
}

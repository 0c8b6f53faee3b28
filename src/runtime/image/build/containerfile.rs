//! The text of a Containerfile as a list of instructions with their lines.
//!
//! Pure. It knows the grammar of the Dockerfile reference for the instructions that are carried out;
//! every other one is refused by name, never skipped. Variables are expanded later, when their values
//! are known.

/// One instruction and the line it starts on, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub number: usize,
    pub instruction: Instruction,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    From(String),
    Copy(Copy),
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Arg { name: String, default: Option<String> },
    Workdir(String),
    User(String),
    Expose(Vec<String>),
    Volume(Vec<String>),
    StopSignal(String),
    Entrypoint(Command),
    Cmd(Command),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    pub is_add: bool,
    pub chown: Option<String>,
    pub chmod: Option<String>,
    pub sources: Vec<String>,
    pub target: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Exec(Vec<String>),
    Shell(String),
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct SyntaxError {
    pub line: usize,
    pub reason: String,
}

/// Parses a whole file.
pub fn parse(text: &str) -> Result<Vec<Line>, SyntaxError> {
    let mut lines = Vec::new();
    for (number, logical) in logical_lines(text)? {
        let instruction =
            instruction(&logical).map_err(|reason| SyntaxError { line: number, reason })?;
        lines.push(Line { number, instruction });
    }
    Ok(lines)
}

/// Joins continued lines; comments and empty lines go, also between continued ones.
fn logical_lines(text: &str) -> Result<Vec<(usize, String)>, SyntaxError> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (at, raw) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let trimmed = raw.trim();
        if let Some(comment) = trimmed.strip_prefix('#') {
            let directive: String = comment.split_whitespace().collect();
            let escape = directive.to_ascii_lowercase();
            if found.is_empty()
                && open.is_none()
                && escape.starts_with("escape=")
                && escape != "escape=\\"
            {
                return Err(SyntaxError {
                    line: at + 1,
                    reason: "only the escape character \\ is supported".to_owned(),
                });
            }
            continue;
        }
        if trimmed.is_empty() {
            continue;
        }
        let (start, mut joined) = open.take().unwrap_or((at + 1, String::new()));
        match raw.trim_end().strip_suffix('\\') {
            Some(rest) => {
                joined.push_str(rest);
                open = Some((start, joined));
            }
            None => {
                joined.push_str(raw.trim_end());
                found.push((start, joined.trim().to_owned()));
            }
        }
    }
    if let Some((start, joined)) = open {
        found.push((start, joined.trim().to_owned()));
    }
    Ok(found)
}

fn instruction(line: &str) -> Result<Instruction, String> {
    let (word, rest) =
        line.split_once(char::is_whitespace).map_or((line, ""), |(word, rest)| (word, rest.trim()));
    let name = word.to_ascii_uppercase();
    if rest.is_empty() {
        return Err(format!("{name} needs an argument"));
    }
    Ok(match name.as_str() {
        "FROM" => from(rest)?,
        "COPY" => copy(rest, false)?,
        "ADD" => copy(rest, true)?,
        "ENV" => Instruction::Env(pairs(&name, rest)?),
        "LABEL" => Instruction::Label(pairs(&name, rest)?),
        "ARG" => {
            let (key, default) = match rest.split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (rest, None),
            };
            if !is_variable(key) {
                return Err(format!("ARG takes one NAME or NAME=default, not {rest:?}"));
            }
            Instruction::Arg { name: key.to_owned(), default }
        }
        "WORKDIR" => Instruction::Workdir(rest.to_owned()),
        "USER" => Instruction::User(rest.to_owned()),
        "EXPOSE" => Instruction::Expose(rest.split_whitespace().map(str::to_owned).collect()),
        "VOLUME" => Instruction::Volume(
            json_list(rest).unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect()),
        ),
        "STOPSIGNAL" => Instruction::StopSignal(rest.to_owned()),
        "ENTRYPOINT" => Instruction::Entrypoint(command(rest)),
        "CMD" => Instruction::Cmd(command(rest)),
        "RUN" | "HEALTHCHECK" | "ONBUILD" | "SHELL" | "MAINTAINER" => {
            return Err(format!("{name} is not supported"));
        }
        _ => return Err(format!("unknown instruction {word}")),
    })
}

fn from(rest: &str) -> Result<Instruction, String> {
    let mut words = rest.split_whitespace();
    let mut image = words.next().unwrap_or_default();
    if let Some(platform) = image.strip_prefix("--platform=") {
        if platform != "linux/amd64" {
            return Err(format!("FROM --platform={platform} is not supported"));
        }
        image = words.next().unwrap_or_default();
    }
    if image.is_empty() || image.starts_with("--") {
        return Err(format!("FROM takes an image, not {rest:?}"));
    }
    match (words.next(), words.next(), words.next()) {
        (None, None, None) => {}
        // The name of the only stage changes nothing.
        (Some(word), Some(_), None) if word.eq_ignore_ascii_case("as") => {}
        _ => return Err(format!("FROM takes an image and AS name, not {rest:?}")),
    }
    Ok(Instruction::From(image.to_owned()))
}

fn copy(rest: &str, is_add: bool) -> Result<Instruction, String> {
    let name = if is_add { "ADD" } else { "COPY" };
    let mut copy =
        Copy { is_add, chown: None, chmod: None, sources: Vec::new(), target: String::new() };
    let mut rest = rest;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = flag
            .split_once(char::is_whitespace)
            .ok_or_else(|| format!("{name} needs a source and a destination"))?;
        match flag.split_once('=') {
            Some(("chown", owner)) => copy.chown = Some(owner.to_owned()),
            Some(("chmod", mode)) => copy.chmod = Some(mode.to_owned()),
            _ => return Err(format!("{name} --{flag} is not supported")),
        }
        rest = after.trim_start();
    }
    if rest.contains("<<") {
        return Err(format!("{name} from a here-document is not supported"));
    }
    let mut words = match json_list(rest) {
        Some(words) => words,
        None => rest.split_whitespace().map(str::to_owned).collect(),
    };
    copy.target = words.pop().unwrap_or_default();
    if words.is_empty() {
        return Err(format!("{name} needs a source and a destination"));
    }
    if let Some(remote) =
        words.iter().find(|word| is_add && (word.contains("://") || word.starts_with("git@")))
    {
        return Err(format!("ADD of the remote source {remote} is not supported"));
    }
    copy.sources = words;
    Ok(Instruction::Copy(copy))
}

/// The exec form is a JSON array of strings; what is not one is the shell form, as Docker has it.
fn command(rest: &str) -> Command {
    match json_list(rest) {
        Some(words) => Command::Exec(words),
        None => Command::Shell(rest.to_owned()),
    }
}

fn json_list(rest: &str) -> Option<Vec<String>> {
    if !rest.starts_with('[') {
        return None;
    }
    serde_json::from_str(rest).ok()
}

/// `KEY=value KEY="quoted value" …`, or the old `KEY the rest of the line`.
fn pairs(name: &str, rest: &str) -> Result<Vec<(String, String)>, String> {
    let first = rest.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (key, value) = rest
            .split_once(char::is_whitespace)
            .ok_or_else(|| format!("{name} {rest} has no value"))?;
        return Ok(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    words(rest)?
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((unquote(key), value.to_owned())),
            _ => Err(format!("{name} takes KEY=value, not {word:?}")),
        })
        .collect()
}

/// Splits at spaces outside quotes; quotes and escapes stay for [`expand`].
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote: Option<char> = None;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (None | Some('"'), '\\') => {
                word.push(c);
                word.extend(characters.next());
            }
            (None, '"' | '\'') => {
                quote = Some(c);
                word.push(c);
            }
            (Some(open), _) if open == c => {
                quote = None;
                word.push(c);
            }
            (None, _) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            _ => word.push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    if !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

fn unquote(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '"' | '\'')).collect()
}

/// Resolves quotes, escapes, `$NAME`, `${NAME}`, `${NAME:-word}` and `${NAME:+word}`. A variable that
/// is not set is empty.
pub fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::new();
    let mut quote: Option<char> = None;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match (quote, c) {
            (None | Some('"'), '\\') => match rest.chars().next() {
                Some(next) => {
                    if quote.is_some() && !matches!(next, '"' | '$' | '\\') {
                        out.push('\\');
                    }
                    out.push(next);
                    rest = &rest[next.len_utf8()..];
                }
                None => out.push('\\'),
            },
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            (None | Some('"'), '$') => {
                let (value, after) = variable(rest, lookup)?;
                out.push_str(&value);
                rest = after;
            }
            _ => out.push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    Ok(out)
}

fn variable<'a>(
    rest: &'a str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<(String, &'a str), String> {
    let Some(inner) = rest.strip_prefix('{') else {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        if end == 0 {
            return Ok(("$".to_owned(), rest));
        }
        return Ok((lookup(&rest[..end]).unwrap_or_default(), &rest[end..]));
    };
    let (inner, after) = inner.split_once('}').ok_or_else(|| format!("${rest} is not closed"))?;
    let (name, modifier) = match inner.split_once(':') {
        Some((name, modifier)) => (name, Some(modifier)),
        None => (inner, None),
    };
    if !is_variable(name) {
        return Err(format!("${{{inner}}} is not supported"));
    }
    let value = lookup(name).filter(|value| modifier.is_none() || !value.is_empty());
    let value = match modifier {
        None => value.unwrap_or_default(),
        Some(modifier) => match (modifier.split_at_checked(1), value) {
            (Some(("-", _)), Some(value)) => value,
            (Some(("-", word)), None) => expand(word, lookup)?,
            (Some(("+", word)), Some(_)) => expand(word, lookup)?,
            (Some(("+", _)), None) => String::new(),
            _ => return Err(format!("${{{inner}}} is not supported")),
        },
    };
    Ok((value, after))
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_read_with_their_lines() {
        let lines = parse(
            "# syntax=docker/dockerfile:1\n\nFROM scratch AS x\n# c\nCOPY --chown=1:2 --chmod=755 a \\\n  # inside\n  b /c/\nENV A=1 B=\"two words\" C=d\\ e\nenv OLD the rest\nCMD [\"/x\", \"y\"]\nENTRYPOINT exec /x $Y\nEXPOSE 80 443/tcp\nADD [\"a b\", \"/c d\"]\n",
        )
        .unwrap();
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        let expected = [
            (3, Instruction::From("scratch".into())),
            (
                5,
                Instruction::Copy(Copy {
                    is_add: false,
                    chown: Some("1:2".into()),
                    chmod: Some("755".into()),
                    sources: vec!["a".into(), "b".into()],
                    target: "/c/".into(),
                }),
            ),
            (
                8,
                Instruction::Env(vec![
                    pair("A", "1"),
                    pair("B", "\"two words\""),
                    pair("C", "d\\ e"),
                ]),
            ),
            (9, Instruction::Env(vec![pair("OLD", "the rest")])),
            (10, Instruction::Cmd(Command::Exec(vec!["/x".into(), "y".into()]))),
            (11, Instruction::Entrypoint(Command::Shell("exec /x $Y".into()))),
            (12, Instruction::Expose(vec!["80".into(), "443/tcp".into()])),
            (
                13,
                Instruction::Copy(Copy {
                    is_add: true,
                    chown: None,
                    chmod: None,
                    sources: vec!["a b".into()],
                    target: "/c d".into(),
                }),
            ),
        ];
        assert_eq!(lines.len(), expected.len());
        for (line, (number, instruction)) in lines.into_iter().zip(expected) {
            assert_eq!((line.number, line.instruction), (number, instruction));
        }
    }

    #[test]
    fn what_is_not_carried_out_is_refused_by_name_and_line() {
        for (text, error) in [
            ("FROM x\nRUN make", "line 2: RUN is not supported"),
            ("HEALTHCHECK NONE", "line 1: HEALTHCHECK is not supported"),
            ("ONBUILD COPY a b", "line 1: ONBUILD is not supported"),
            ("FRUM x", "line 1: unknown instruction FRUM"),
            ("COPY a", "line 1: COPY needs a source and a destination"),
            ("COPY --from=x a b", "line 1: COPY --from=x is not supported"),
            ("ADD https://x/y /", "line 1: ADD of the remote source https://x/y is not supported"),
            ("COPY <<EOF /x", "line 1: COPY from a here-document is not supported"),
            ("CMD", "line 1: CMD needs an argument"),
            ("ENV A", "line 1: ENV A has no value"),
            ("ENV A=\"x", "line 1: a quote is not closed"),
            (
                "FROM --platform=linux/arm64 x",
                "line 1: FROM --platform=linux/arm64 is not supported",
            ),
            ("# escape=`\nFROM x", "line 1: only the escape character \\ is supported"),
            ("ARG 1x", "line 1: ARG takes one NAME or NAME=default, not \"1x\""),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), error, "{text}");
        }
    }

    #[test]
    fn variables_expand_as_docker_expands_them() {
        let lookup = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (text, value) in [
            ("$A-${A}", "1-1"),
            ("\\$A", "$A"),
            ("'$A'", "$A"),
            ("\"$A b\"", "1 b"),
            ("${B:-x}", "x"),
            ("${EMPTY:-x$A}", "x1"),
            ("${A:+yes}${B:+no}", "yes"),
            ("$B", ""),
            ("a$", "a$"),
            ("d\\ e", "d e"),
            ("\"a\\tb\"", "a\\tb"),
        ] {
            assert_eq!(expand(text, &lookup).as_deref(), Ok(value), "{text}");
        }
        assert!(expand("${A", &lookup).is_err());
        assert!(expand("${A%x}", &lookup).is_err());
    }
}

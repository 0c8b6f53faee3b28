//! `.dockerignore` and `.containerignore`: which files of a context are left out.
//!
//! Pure; the patterns of moby's `patternmatcher`: Go's `filepath.Match` per component, `**` for any
//! number of them, `!` to take back in, a matched directory stands for all that is in it, and the last
//! match decides.

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    takes_back: bool,
    components: Vec<String>,
}

impl Ignore {
    /// Reads patterns, one a line.
    pub fn parse(text: &str) -> Ignore {
        let patterns = text
            .trim_start_matches('\u{feff}')
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .filter_map(|line| {
                let (takes_back, pattern) = match line.strip_prefix('!') {
                    Some(rest) => (true, rest.trim()),
                    None => (false, line),
                };
                let mut components: Vec<String> = Vec::new();
                for component in pattern.split('/') {
                    match component {
                        "" | "." => {}
                        ".." => {
                            components.pop();
                        }
                        other => components.push(other.to_owned()),
                    }
                }
                (!components.is_empty()).then_some(Pattern { takes_back, components })
            })
            .collect();
        Ignore { patterns }
    }

    /// Whether the file or directory at `path` (relative, components joined by `/`) is left out.
    pub fn leaves_out(&self, path: &str) -> bool {
        let components: Vec<&str> = path.split('/').collect();
        let mut out = false;
        for pattern in &self.patterns {
            if pattern.takes_back != out {
                continue;
            }
            let matches = (1..=components.len())
                .any(|length| match_path(&pattern.components, &components[..length]));
            if matches {
                out = !pattern.takes_back;
            }
        }
        out
    }

    /// Whether something inside a directory that is left out may be taken back in.
    pub fn may_take_back(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.takes_back)
    }
}

fn match_path(pattern: &[String], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "**" => {
            match_path(rest, path)
                || path.split_first().is_some_and(|(_, deeper)| match_path(pattern, deeper))
        }
        (Some((first, rest)), Some((name, deeper))) => {
            match_name(first, name) && match_path(rest, deeper)
        }
        _ => false,
    }
}

/// Go's `filepath.Match` for one component: `*`, `?`, `[a-z]`, `[^a-z]`, `\` escapes.
pub fn match_name(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    // Greedy with one point of return: linear in practice, quadratic at worst.
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, n));
            p += 1;
            continue;
        }
        if n == name.len() && p == pattern.len() {
            return true;
        }
        if n < name.len()
            && let Some(next) = match_one(&pattern, p, name[n])
        {
            p = next;
            n += 1;
            continue;
        }
        match star {
            Some((at, from)) if from < name.len() => {
                star = Some((at, from + 1));
                p = at + 1;
                n = from + 1;
            }
            _ => return false,
        }
    }
}

/// Position behind the pattern element at `p` when it matches `c`.
fn match_one(pattern: &[char], p: usize, c: char) -> Option<usize> {
    match pattern.get(p)? {
        '?' => Some(p + 1),
        '\\' => (pattern.get(p + 1) == Some(&c)).then_some(p + 2),
        '[' => {
            let mut at = p + 1;
            let negated = pattern.get(at) == Some(&'^');
            if negated {
                at += 1;
            }
            let mut hit = false;
            let first = at;
            loop {
                let low = *pattern.get(at)?;
                if low == ']' && at > first {
                    break;
                }
                let high = match (pattern.get(at + 1), pattern.get(at + 2)) {
                    (Some('-'), Some(high)) if *high != ']' => {
                        at += 2;
                        *high
                    }
                    _ => low,
                };
                hit |= (low..=high).contains(&c);
                at += 1;
            }
            (hit != negated).then_some(at + 1)
        }
        literal => (*literal == c).then_some(p + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_leave_out_what_docker_leaves_out() {
        let ignore = Ignore::parse(
            "# c\n*.log\n!keep.log\n/target\n**/node_modules\nsrc/**/tmp\ndocs/*\n!docs/README.md\n[a-c]?z\n",
        );
        for (path, out) in [
            ("x.log", true),
            ("keep.log", false),
            ("sub/x.log", false),
            ("target", true),
            ("target/debug/x", true),
            ("sub/target", false),
            ("node_modules", true),
            ("a/b/node_modules/c", true),
            ("src/tmp", true),
            ("src/a/b/tmp/x", true),
            ("docs/a", true),
            ("docs/README.md", false),
            ("docs", false),
            ("bxz", true),
            ("dxz", false),
        ] {
            assert_eq!(ignore.leaves_out(path), out, "{path}");
        }
        assert!(!Ignore::default().leaves_out("x"));
        assert!(match_name("*a*b", "xaxxb") && !match_name("*a*b", "xaxx"));
        assert!(match_name("\\*", "*") && !match_name("\\*", "x"));
        assert!(!match_name("[a", "a"));
    }
}

//! Which tests to run: globs over `group.name`.

use alloc::string::String;
use alloc::vec::Vec;

/// One or more globs, separated by commas: `*` stands for any characters, `?` for one. A pattern
/// that starts with `!` excludes. A pattern without a dot or star means the group of that name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    include: Vec<String>,
    exclude: Vec<String>,
}

impl Filter {
    /// Parses patterns; an empty text picks everything.
    #[must_use]
    pub fn new(patterns: &str) -> Self {
        let mut filter = Self::default();
        for pattern in patterns.split(',').map(str::trim) {
            let (list, pattern) = match pattern.strip_prefix('!') {
                Some(rest) => (&mut filter.exclude, rest),
                None => (&mut filter.include, pattern),
            };
            if pattern.is_empty() {
                continue;
            }
            let mut pattern = String::from(pattern);
            if !pattern.contains(['.', '*', '?']) {
                pattern.push_str(".*");
            }
            list.push(pattern);
        }
        filter
    }

    /// Whether a test of this full name is to run.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let any = |list: &[String]| list.iter().any(|pattern| glob(pattern, name));
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }
}

/// Whether `text` matches `pattern` as a whole.
fn glob(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.as_bytes(), text.as_bytes());
    // Where to go on when what follows the last star does not match here.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern.split_first(), text.split_first()) {
            (Some((b'*', rest)), _) => {
                pattern = rest;
                retry = text.split_first().map(|(_, after)| (rest, after));
            }
            (Some((p, p_rest)), Some((t, t_rest))) if *p == b'?' || p == t => {
                pattern = p_rest;
                text = t_rest;
            }
            (None, None) => return true,
            _ => match retry {
                Some((after_star, from)) => {
                    pattern = after_star;
                    text = from;
                    retry = from.split_first().map(|(_, after)| (after_star, after));
                }
                None => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_names() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("*", "a.b", true),
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
            ("a.*", "a.bc", true),
            ("*.b", "a.b.b", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcdef", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*b", "abab", true),
            ("*ab", "aab", true),
            ("", "", true),
            ("", "a", false),
            ("a**b", "ab", true),
        ] {
            assert_eq!(glob(pattern, name), expected, "{pattern} over {name}");
        }
    }

    #[test]
    fn filter_lists_include_and_exclude() {
        let all = Filter::new("");
        assert!(all.matches("queues.create"));
        let some = Filter::new("queues, io.read*");
        assert!(some.matches("queues.create"));
        assert!(some.matches("io.read_back"));
        assert!(!some.matches("io.write"));
        let others = Filter::new("!hostile,!io.w*");
        assert!(others.matches("io.read"));
        assert!(!others.matches("io.write"));
        assert!(!others.matches("hostile.random"));
    }
}

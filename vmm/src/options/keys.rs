//! Keys and values, read by a table: one row a key, with what it means, how it is read and written.

use std::{fmt, path::PathBuf};

use thiserror::Error;

/// An option that cannot be.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub struct OptionError {
    /// Where it was given.
    pub origin: Origin,
    /// The key.
    pub key: String,
    /// The value, as it was given.
    pub value: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

/// Where an option was given.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Origin {
    /// With `--nvme`.
    #[default]
    CommandLine,
    /// In a file of `--config`.
    File {
        /// Its path.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
}

impl OptionError {
    /// An option of the command line that cannot be.
    #[must_use]
    pub fn new(
        key: impl Into<String>,
        value: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            origin: Origin::CommandLine,
            key: key.into(),
            value: value.into(),
            reason: reason.into(),
        }
    }
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            origin,
            key,
            value,
            reason,
        } = self;
        match origin {
            Origin::CommandLine => write!(f, "--nvme {key}={value}: {reason}"),
            Origin::File { path, line } => {
                write!(f, "{}:{line}: {key} = {value}: {reason}", path.display())
            }
        }
    }
}

/// One key of a list of options.
pub(super) struct Key<T: 'static> {
    pub(super) name: &'static str,
    /// What its values look like.
    pub(super) form: Form,
    /// What it means, in a line.
    pub(super) help: &'static str,
    /// What holds as long as the key is not given, where [`get`](Self::get) has nothing to say.
    pub(super) unset: &'static str,
    pub(super) set: fn(&mut T, &str) -> Result<(), String>,
    /// The value as [`set`](Self::set) reads it, unless it is not given.
    pub(super) get: fn(&T) -> Option<String>,
}

/// What the values of a key look like.
pub(super) enum Form {
    /// Bytes, in a range that this says.
    Size(&'static str),
    /// Several of bytes, with colons between them, in a range that this says.
    Sizes(&'static str),
    /// Bytes or logical blocks, in a range that this says.
    Extent(&'static str),
    /// A whole number from the first to the second.
    Number(u64, u64),
    /// One of two words, false before true; in a file `true` and `false` too.
    Flag([&'static str; 2]),
    /// One of some words.
    Word(fn() -> Vec<&'static str>),
    /// Any text, of a length that this says.
    Text(&'static str),
}

impl Form {
    /// The form in a word, for the help text.
    pub(super) fn word(&self) -> String {
        match self {
            Self::Size(_) => "SIZE".to_string(),
            Self::Sizes(_) => "SIZE:SIZE...".to_string(),
            Self::Extent(_) => "EXTENT".to_string(),
            Self::Number(..) => "N".to_string(),
            Self::Flag(words) => words.join("|"),
            Self::Word(words) => words().join("|"),
            Self::Text(_) => "TEXT".to_string(),
        }
    }

    /// Unit and range, for the help text; nothing where the word says it all.
    fn range(&self) -> Option<String> {
        match self {
            Self::Size(range) | Self::Sizes(range) => Some(format!("bytes, {range}")),
            Self::Extent(range) => Some(format!("bytes or blocks, {range}")),
            Self::Number(least, most) => Some(format!("{least} to {most}")),
            Self::Text(range) => Some((*range).to_string()),
            Self::Flag(_) | Self::Word(_) => None,
        }
    }
}

impl<T: Default> Key<T> {
    /// What holds unless it is given.
    pub(super) fn default_text(&self) -> String {
        (self.get)(&T::default()).unwrap_or_else(|| self.unset.to_string())
    }

    /// Two lines of help: what it means; its range and default.
    pub(super) fn help_text(&self) -> String {
        let range = self.form.range();
        let range = range.map(|range| format!("{range}; ")).unwrap_or_default();
        format!(
            "  {:<22} {}\n  {:<22}   {range}default {}\n",
            format!("{}={}", self.name, self.form.word()),
            self.help,
            "",
            self.default_text(),
        )
    }
}

/// Splits `key=value,key=value`; what lacks an equals sign is an error. Two commas are one of the
/// value.
pub(super) fn pairs(text: &str) -> Vec<Result<(String, String), OptionError>> {
    let mut items = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == ',' && characters.next_if_eq(&',').is_none() {
            items.push(String::new());
        } else if let Some(item) = items.last_mut() {
            item.push(character);
        }
    }
    items
        .into_iter()
        .filter(|item| !item.is_empty())
        .map(|item| match item.split_once('=') {
            Some((key, value)) => Ok((key.to_string(), value.to_string())),
            None => Err(OptionError::new(
                item,
                "",
                "write it as key=value, with commas between several",
            )),
        })
        .collect()
}

/// A pair as [`pairs`] reads it.
pub(super) fn pair(key: &str, value: &str) -> String {
    format!("{key}={}", value.replace(',', ",,"))
}

/// That there is no such key: what may have been meant, and what there is.
pub(super) fn no_such_key<'a>(key: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let all = known.clone().collect::<Vec<_>>().join(", ");
    match nearest(key, known) {
        Some(near) => {
            format!("there is no such key; did you mean {near}? The keys are {all}")
        }
        None => format!("there is no such key; the keys are {all}"),
    }
}

/// The name that `word` is most likely meant to be: a third of its letters may be wrong.
pub(super) fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // What is long is none of ours, and costs time to compare.
    let letters = word.chars().take(64).count();
    if letters == 64 {
        return None;
    }
    let word = word.to_lowercase();
    names
        .map(|name| (strsim::damerau_levenshtein(&word, name), name))
        .filter(|&(distance, _)| distance <= letters.div_ceil(3))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, name)| name)
}

/// A whole number from `least` to `most`.
pub(super) fn number<N>(text: &str, least: N, most: N) -> Result<N, String>
where
    N: std::str::FromStr + PartialOrd + fmt::Display + Copy,
{
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits && number >= least && number <= most => Ok(number),
        _ => Err(format!("give a whole number from {least} to {most}")),
    }
}

/// The value that a word stands for.
pub(super) fn choose<V: Copy>(words: &[(&'static str, V)], text: &str) -> Result<V, String> {
    match words.iter().find(|(word, _)| *word == text) {
        Some((_, value)) => Ok(*value),
        None => {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            Err(match words.split_last() {
                Some((last, first)) if !first.is_empty() => {
                    format!("give {} or {last}", first.join(", "))
                }
                _ => format!("give {}", words.concat()),
            })
        }
    }
}

/// The word that stands for a value.
pub(super) fn word<V: PartialEq>(words: &[(&'static str, V)], value: &V) -> Option<String> {
    let found = words.iter().find(|(_, other)| other == value);
    found.map(|(word, _)| (*word).to_string())
}

/// All the words.
pub(super) fn words<V>(words: &[(&'static str, V)]) -> Vec<&'static str> {
    words.iter().map(|(word, _)| *word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_commas_are_one_of_the_value() {
        let read = |text| pairs(text).into_iter().collect::<Result<Vec<_>, _>>();
        let expected = [("a", "1,2"), ("b", "=")].map(|(k, v)| (k.to_string(), v.to_string()));
        assert_eq!(read("a=1,,2,b==,"), Ok(expected.to_vec()));
        assert_eq!(expected.map(|(k, v)| pair(&k, &v)).join(","), "a=1,,2,b==");
        assert!(read("a=1,b").is_err());
    }

    #[test]
    fn what_is_nearly_a_name_is_found() {
        let names = ["awun", "awupf", "size", "seed", "queues"];
        for (word, name) in [
            ("queue", Some("queues")),
            ("AWUN", Some("awun")),
            ("awumpf", Some("awupf")),
            ("siez", Some("size")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, names.into_iter()), name, "{word}");
        }
    }
}

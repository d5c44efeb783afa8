//! The kernel's command line: words apart by white space, `key=value` or a bare `key`.

use alloc::string::String;

/// A copy of the command line.
#[derive(Clone, Debug, Default)]
pub struct CommandLine {
    text: String,
}

impl CommandLine {
    /// Takes over a command line's text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self { text }
    }

    /// All of it, as it came.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Every word as (key, value); a bare word has the value "".
    pub fn words(&self) -> impl Iterator<Item = (&str, &str)> {
        self.text
            .split_whitespace()
            .map(|word| word.split_once('=').unwrap_or((word, "")))
    }

    /// The value of the last word with this key (the last wins, as in Linux).
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.words()
            .filter(|(name, _)| *name == key)
            .map(|(_, value)| value)
            .last()
    }

    /// The value as a number, decimal or 0x-hexadecimal; `None` when absent or no number.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        let value = self.get(key)?;
        match value.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => value.parse().ok(),
        }
    }

    /// Whether the word is there, with or without a value.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }
}

//! Lists of `key=value`, read by a table: one row a key, with what it means and how it is read.

use thiserror::Error;

/// An option that cannot be.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("--{list} {key}={value}: {reason}")]
pub struct OptionError {
    /// The option that takes the list, such as `nvme`.
    pub list: &'static str,
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

/// One key of a list of options.
pub(super) struct Key<T> {
    pub(super) name: &'static str,
    /// What the value looks like, for the help text.
    pub(super) form: &'static str,
    /// What it means, in a line.
    pub(super) help: &'static str,
    pub(super) set: fn(&mut T, &str) -> Result<(), String>,
}

/// Splits `key=value,key=value`; what lacks an equals sign is an error.
pub(super) fn pairs<'a>(
    list: &'static str,
    text: &'a str,
) -> impl Iterator<Item = Result<(&'a str, &'a str), OptionError>> {
    text.split(',')
        .filter(|item| !item.is_empty())
        .map(move |item| {
            item.split_once('=').ok_or_else(|| OptionError {
                list,
                key: item.to_string(),
                value: String::new(),
                reason: "write it as key=value, with commas between several".to_string(),
            })
        })
}

/// Sets a key by its table.
pub(super) fn set<T>(
    list: &'static str,
    table: &[Key<T>],
    target: &mut T,
    key: &str,
    value: &str,
) -> Result<(), OptionError> {
    let error = |reason| OptionError {
        list,
        key: key.to_string(),
        value: value.to_string(),
        reason,
    };
    let Some(row) = table.iter().find(|row| row.name == key) else {
        let known: Vec<&str> = table.iter().map(|row| row.name).collect();
        return Err(error(format!(
            "there is no such key; the keys are {}",
            known.join(", ")
        )));
    };
    (row.set)(target, value).map_err(error)
}

/// A whole number from `least` to `most`.
pub(super) fn number<N>(text: &str, least: N, most: N) -> Result<N, String>
where
    N: std::str::FromStr + PartialOrd + std::fmt::Display + Copy,
{
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits && number >= least && number <= most => Ok(number),
        _ => Err(format!("give a whole number from {least} to {most}")),
    }
}

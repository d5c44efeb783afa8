//! Controllers as a TOML file has them, with the keys of `--nvme`:
//!
//! ```toml
//! [[nvme]]
//! lba = "4K"
//! queues = 8
//! lint = true
//!
//! [[nvme.namespace]]
//! size = "64M"
//!
//! [[nvme.namespace]]
//! size = "1G"
//! nawun = "16K"
//! ```
//!
//! The first `[[nvme.namespace]]` is `ns1` on the command line, the second `ns2`; there are as
//! many namespaces as such tables, unless `namespaces` says more.

use std::{
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use thiserror::Error;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{CONTROLLER_KEYS, NAMESPACE_KEYS, NvmeOptions, names, row};
use crate::options::keys::{self, Form, OptionError, Origin};

/// The name of a controller's tables.
const CONTROLLER: &str = "nvme";
/// The name of a namespace's tables within.
const NAMESPACE: &str = "namespace";

/// What a file describes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigFile {
    path: PathBuf,
    controllers: Vec<Controller>,
}

/// A `[[nvme]]` table.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Controller {
    line: usize,
    settings: Vec<Setting>,
}

/// A key with its value, as the command line has them.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Setting {
    /// `lba` or `ns2.lba`.
    key: String,
    value: String,
    /// The value as the file has it.
    written: String,
    line: usize,
}

/// A file that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigFileError {
    /// It cannot be read.
    #[error("--config {path}: {source}", path = path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something in it that is no option: not TOML, an unknown table, a wrong number of them.
    #[error("{path}:{line}: {reason}", path = path.display())]
    Structure {
        /// Its path.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// An option.
    #[error(transparent)]
    Option(#[from] OptionError),
}

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, and those of [`parse`](Self::parse).
    pub fn read(path: &Path) -> Result<Self, ConfigFileError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigFileError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        Self::parse(path, &text)
    }

    /// Takes in a file's text; `path` is its name in errors.
    ///
    /// # Errors
    /// When it is not TOML, or has other tables, other keys or values of other types than there
    /// are. Values are looked at by [`apply`](Self::apply).
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigFileError> {
        let reader = Reader { path, text };
        let document = DeTable::parse(text).map_err(|error| {
            let reason = format!("not TOML: {}", error.message());
            reader.structure(error.span().unwrap_or_default(), reason)
        })?;
        let mut controllers = Vec::new();
        for (name, value) in document.get_ref() {
            if name.get_ref() != CONTROLLER {
                return Err(reader.structure(
                    name.span(),
                    format!("there is no `{}`; a controller is [[nvme]]", name.get_ref()),
                ));
            }
            for table in reader.tables(value, "[[nvme]]", "once for each controller")? {
                controllers.push(reader.controller(table)?);
            }
        }
        Ok(Self {
            path: path.to_path_buf(),
            controllers,
        })
    }

    /// How many controllers the file describes.
    #[must_use]
    pub fn controllers(&self) -> usize {
        self.controllers.len()
    }

    /// Takes the file's only controller in, over what `options` say.
    ///
    /// # Errors
    /// When there is none or a second one; those of [`NvmeOptions::apply`], with the line.
    pub fn apply(&self, options: &mut NvmeOptions) -> Result<(), ConfigFileError> {
        let wrong = |line, reason: &str| ConfigFileError::Structure {
            path: self.path.clone(),
            line,
            reason: reason.to_string(),
        };
        let controller = match &self.controllers[..] {
            [] => return Err(wrong(1, "there is no controller; begin one with [[nvme]]")),
            [one] => one,
            [_, second, ..] => {
                let reason = "a second [[nvme]], and one controller is tested; leave out the rest";
                return Err(wrong(second.line, reason));
            }
        };
        self.apply_one(controller, options)
    }

    /// Takes the file's controller `index`, from 0, in, over what `options` say. Nothing happens if
    /// there is none.
    ///
    /// # Errors
    /// Those of [`NvmeOptions::apply`], with the line.
    pub fn apply_nth(
        &self,
        index: usize,
        options: &mut NvmeOptions,
    ) -> Result<(), ConfigFileError> {
        let controller = self.controllers.get(index);
        controller.map_or(Ok(()), |controller| self.apply_one(controller, options))
    }

    fn apply_one(
        &self,
        controller: &Controller,
        options: &mut NvmeOptions,
    ) -> Result<(), ConfigFileError> {
        for setting in &controller.settings {
            let origin = Origin::File {
                path: self.path.clone(),
                line: setting.line,
            };
            let set = options.set(&setting.key, &setting.value, origin);
            set.map_err(|error| OptionError {
                value: setting.written.clone(),
                ..error
            })?;
        }
        Ok(())
    }
}

/// A file that is being read.
struct Reader<'t> {
    path: &'t Path,
    text: &'t str,
}

type Value<'t> = Spanned<DeValue<'t>>;

impl<'t> Reader<'t> {
    fn line(&self, at: &Range<usize>) -> usize {
        let before = self.text.as_bytes().iter().take(at.start);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    /// A piece of the file in one line, if it is not long.
    fn written(&self, at: Range<usize>) -> String {
        let text = self.text.get(at).unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        let start: String = line.chars().take(60).collect();
        let more = if start.len() < text.len() { "…" } else { "" };
        start + more
    }

    fn structure(&self, at: Range<usize>, reason: String) -> ConfigFileError {
        ConfigFileError::Structure {
            path: self.path.to_path_buf(),
            line: self.line(&at),
            reason,
        }
    }

    fn option(&self, key: &str, value: &Value<'_>, reason: String) -> ConfigFileError {
        let at = value.span();
        ConfigFileError::Option(OptionError {
            origin: Origin::File {
                path: self.path.to_path_buf(),
                line: self.line(&at),
            },
            key: key.to_string(),
            value: self.written(at),
            reason,
        })
    }

    /// An array of tables.
    fn tables<'v>(
        &self,
        value: &'v Value<'t>,
        form: &str,
        when: &str,
    ) -> Result<Vec<TableRef<'v, 't>>, ConfigFileError> {
        let wrong = || self.structure(value.span(), format!("write {form}, {when}"));
        let array = value.get_ref().as_array().ok_or_else(wrong)?;
        let tables = array.iter().map(|item| {
            let table = item.get_ref().as_table().ok_or_else(wrong)?;
            Ok(TableRef {
                table,
                at: item.span(),
            })
        });
        tables.collect()
    }

    fn controller(&self, table: TableRef<'_, 't>) -> Result<Controller, ConfigFileError> {
        let mut settings = Vec::new();
        let mut tables = Vec::new();
        for (name, value) in table.table {
            let key = name.get_ref().as_ref();
            if key == NAMESPACE {
                tables = self.tables(value, "[[nvme.namespace]]", "once for each namespace")?;
                continue;
            }
            let form = row(&NAMESPACE_KEYS, key).map(|row| &row.form);
            let form = form.or_else(|| row(&CONTROLLER_KEYS, key).map(|row| &row.form));
            settings.push(self.setting("", key, form, value)?);
        }
        if !tables.is_empty() && !table.table.contains_key("namespaces") {
            let count = tables.len().to_string();
            let last = tables.last().map(|last| last.at.clone());
            settings.push(Setting {
                key: "namespaces".to_string(),
                value: count.clone(),
                written: count,
                line: self.line(&last.unwrap_or_default()),
            });
        }
        for (nsid, single) in (1..).zip(&tables) {
            for (name, value) in single.table {
                let key = name.get_ref().as_ref();
                let form = row(&NAMESPACE_KEYS, key).map(|row| &row.form);
                settings.push(self.setting(&format!("ns{nsid}."), key, form, value)?);
            }
        }
        // The parser sorts keys by name; errors are better told from the top.
        settings.sort_by_key(|setting| setting.line);
        Ok(Controller {
            line: self.line(&table.at),
            settings,
        })
    }

    /// A key with its value; `form` is `None` for a key that there is not.
    fn setting(
        &self,
        prefix: &str,
        key: &str,
        form: Option<&Form>,
        value: &Value<'t>,
    ) -> Result<Setting, ConfigFileError> {
        let Some(form) = form else {
            let reason = if !prefix.is_empty() && row(&CONTROLLER_KEYS, key).is_some() {
                format!("{key} is of the whole controller: move it up to [[nvme]]")
            } else if value.get_ref().is_table() {
                "a namespace's own keys stand below [[nvme.namespace]], once for each namespace"
                    .to_string()
            } else if prefix.is_empty() {
                keys::no_such_key(key, names())
            } else {
                keys::no_such_key(key, NAMESPACE_KEYS.iter().map(|row| row.name))
            };
            return Err(self.option(key, value, reason));
        };
        let text = text_of(form, value.get_ref());
        Ok(Setting {
            key: format!("{prefix}{key}"),
            value: text.map_err(|reason| self.option(key, value, reason.to_string()))?,
            written: self.written(value.span()),
            line: self.line(&value.span()),
        })
    }
}

/// A table with its place.
#[derive(Clone)]
struct TableRef<'v, 't> {
    table: &'v DeTable<'t>,
    at: Range<usize>,
}

/// A value as the command line has it, if its type is one that goes with the form.
fn text_of(form: &Form, value: &DeValue<'_>) -> Result<String, &'static str> {
    let integer = || {
        let integer = value.as_integer()?;
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok()?;
        Some(number.to_string())
    };
    let string = || value.as_str().map(ToString::to_string);
    match form {
        Form::Size(_) => string()
            .or_else(integer)
            .ok_or("write bytes as a number, or a size in quotes, such as \"4K\""),
        Form::Sizes(_) => {
            let one = |value: &Value<'_>| text_of(&Form::Size(""), value.get_ref());
            let several = value.as_array().map(|list| list.iter().map(one).collect());
            let one = || string().or_else(integer).map(|size| Ok(vec![size]));
            let wrong = "write sizes in brackets, such as [512, \"4K\"]";
            let sizes: Result<Vec<_>, _> = several.or_else(one).ok_or(wrong)?;
            Ok(sizes?.join(":"))
        }
        Form::Extent(_) => string().or_else(integer).ok_or(
            "write bytes as a number, or in quotes a size, such as \"16K\", or blocks, such as \"4b\"",
        ),
        Form::Number(..) => integer().ok_or("write a whole number, without quotes"),
        Form::Flag([off, on]) => value
            .as_bool()
            .map(|set| if set { (*on).to_string() } else { (*off).to_string() })
            .or_else(string)
            .or_else(integer)
            .ok_or("write true or false"),
        Form::Word(_) | Form::Text(_) => string().ok_or("write it in quotes"),
    }
}

impl NvmeOptions {
    /// All of the options as a file that says the same, defaults too.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = "[[nvme]]\n".to_string();
        for row in &CONTROLLER_KEYS {
            push_line(&mut text, row.name, &row.form, (row.get)(self));
        }
        for row in &NAMESPACE_KEYS {
            push_line(&mut text, row.name, &row.form, (row.get)(&self.namespace));
        }
        let last = self.overrides.keys().next_back().copied().unwrap_or(0);
        for nsid in 1..=last {
            text += "\n[[nvme.namespace]]\n";
            let own = self.overrides.get(&nsid);
            for row in &NAMESPACE_KEYS {
                let value = own.and_then(|own| own.get(row.name)).cloned();
                push_line(&mut text, row.name, &row.form, value);
            }
        }
        text
    }

    /// All of the options as a list that says the same, defaults too.
    #[must_use]
    pub fn to_list(&self) -> String {
        let pair = |name: &str, value: Option<String>| value.map(|value| keys::pair(name, &value));
        let controller = CONTROLLER_KEYS
            .iter()
            .filter_map(|row| pair(row.name, (row.get)(self)));
        let namespace = NAMESPACE_KEYS
            .iter()
            .filter_map(|row| pair(row.name, (row.get)(&self.namespace)));
        let single = self.overrides.iter().flat_map(|(nsid, own)| {
            own.iter()
                .map(move |(key, value)| keys::pair(&format!("ns{nsid}.{key}"), value))
        });
        let all: Vec<String> = controller.chain(namespace).chain(single).collect();
        all.join(",")
    }
}

/// `key = value`, if there is a value.
fn push_line(text: &mut String, key: &str, form: &Form, value: Option<String>) {
    let Some(value) = value else { return };
    let value = match form {
        Form::Number(..) => value,
        Form::Flag([_, on]) => (value == *on).to_string(),
        Form::Sizes(_) => {
            let sizes: Vec<String> = value.split(':').map(quoted).collect();
            format!("[{}]", sizes.join(", "))
        }
        Form::Size(_) | Form::Extent(_) | Form::Word(_) | Form::Text(_) => quoted(&value),
    };
    *text += &format!("{key} = {value}\n");
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => {
                quoted += &format!("\\U{:08X}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted + "\""
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;

//! Several controllers: those of a file, and those of the command line.

use super::{ConfigFile, ConfigFileError, NvmeOptions};
use crate::options::keys::OptionError;

impl NvmeOptions {
    /// The controllers of `file`, each with the list of the same number over it, and one for each
    /// list beyond; a single one, all defaults, if there is neither. Whose Serial Number is not given
    /// has one of its own.
    ///
    /// # Errors
    /// Those of both, and when two controllers have the same Serial Number: a host takes them for one.
    pub fn several(
        file: Option<&ConfigFile>,
        lists: &[String],
    ) -> Result<Vec<Self>, ConfigFileError> {
        let in_file = file.map_or(0, ConfigFile::controllers);
        let count = in_file.max(lists.len()).max(1);
        let mut all: Vec<Self> = Vec::with_capacity(count);
        for index in 0..count {
            let mut options = Self::default();
            if let Some(file) = file {
                file.apply_nth(index, &mut options)?;
            }
            if let Some(list) = lists.get(index) {
                options.apply(list)?;
            }
            if !options.given.contains_key("serial") {
                options.serial = format!("FERRITE{:04}", index + 1);
            }
            if all.iter().any(|other| other.serial == options.serial) {
                let reason = "another controller has this Serial Number, and a host tells them apart \
                              by it; give each its own";
                return Err(refused(&options, reason).into());
            }
            all.push(options);
        }
        Ok(all)
    }
}

fn refused(options: &NvmeOptions, reason: &str) -> OptionError {
    options.error("serial", options.serial.clone(), reason)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn several(file: &str, lists: &[&str]) -> Result<Vec<NvmeOptions>, String> {
        let lists: Vec<String> = lists.iter().map(ToString::to_string).collect();
        let file = ConfigFile::parse(Path::new("a.toml"), file).map_err(|e| e.to_string())?;
        NvmeOptions::several(Some(&file), &lists).map_err(|error| error.to_string())
    }

    const TWO: &str = r#"
[[nvme]]
lba = "4K"
size = "64M"

[[nvme.namespace]]
[[nvme.namespace]]
lba = "16K"
iu = "16K"
nawun = "32K"

[[nvme]]
queues = 2
size = "1M"
"#;

    #[test]
    fn a_file_has_several_and_lists_override_them_in_order() {
        let all = several(TWO, &["queues=3", "", "size=2M"]).expect("valid");
        let serials: Vec<&str> = all.iter().map(|one| one.serial.as_str()).collect();
        assert_eq!(serials, ["FERRITE0001", "FERRITE0002", "FERRITE0003"]);
        assert_eq!(
            all.iter().map(|one| one.queues).collect::<Vec<_>>(),
            [3, 2, 65]
        );
        let blocks = |one: &NvmeOptions| -> Vec<(u32, u64)> {
            let config = one.build().expect("valid");
            let namespaces = config.namespaces.iter();
            namespaces
                .map(|ns| (ns.lba_bytes, ns.device.geometry().bytes))
                .collect()
        };
        assert_eq!(blocks(&all[0]), [(4096, 64 << 20), (16384, 64 << 20)]);
        let unit = all[0].build().expect("valid").namespaces[1]
            .device
            .write_unit();
        assert_eq!(unit, Some(16384));
        assert_eq!(blocks(&all[1]), [(512, 1 << 20)]);
        assert_eq!(blocks(&all[2]), [(512, 2 << 20)]);
    }

    #[test]
    fn without_a_file_each_list_is_one_and_without_lists_there_is_one() {
        let lists = ["serial=A".to_string(), String::new()];
        let all = NvmeOptions::several(None, &lists).expect("valid");
        assert_eq!(
            (all[0].serial.as_str(), all[1].serial.as_str()),
            ("A", "FERRITE0002")
        );
        assert_eq!(NvmeOptions::several(None, &[]).expect("valid").len(), 1);
    }

    #[test]
    fn two_of_one_serial_number_are_refused() {
        let error = several("", &["serial=A", "serial=A"]).expect_err("twice");
        assert!(
            error.contains("serial=A") && error.contains("its own"),
            "{error}"
        );
        let error = several(TWO, &["serial=FERRITE0002"]).expect_err("a default");
        assert!(error.contains("FERRITE0002"), "{error}");
        let error = several(TWO, &["", "queues=0"]).expect_err("no number");
        assert!(error.contains("queues=0"), "{error}");
    }
}

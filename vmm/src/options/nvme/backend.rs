//! What stands behind a namespace, and the size that follows from it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use nvme::CacheMode;
use storage::{
    BlockDevice,
    file::{Image, ImageError, ImageOptions},
    null::Null,
    ram::Ram,
};

use super::{NamespaceOptions, NvmeOptions};
use crate::options::{Size, keys::OptionError};

/// What stands behind a namespace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Backend {
    /// Memory.
    #[default]
    Ram,
    /// Nothing: what is written is dropped.
    Null,
    /// A raw image: a file or a block device.
    File(PathBuf),
}

/// The forms of its values.
pub(super) const FORMS: [&str; 3] = ["ram", "null", "file:PATH"];
/// What a path comes after.
const FILE: &str = "file:";

/// Reads what stands behind a namespace.
pub(super) fn parse(text: &str) -> Result<Backend, String> {
    match (text, text.strip_prefix(FILE)) {
        ("ram", _) => Ok(Backend::Ram),
        ("null", _) => Ok(Backend::Null),
        (_, Some("")) => Err("give the path of a raw image: file:PATH".to_string()),
        (_, Some(path)) => Ok(Backend::File(PathBuf::from(path))),
        _ => Err("give ram, null or file:PATH".to_string()),
    }
}

impl Backend {
    /// The value as [`parse`] reads it.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Ram => "ram".to_string(),
            Self::Null => "null".to_string(),
            Self::File(path) => format!("{FILE}{}", path.display()),
        }
    }

    /// The image's path, if it is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Ram | Self::Null => None,
        }
    }
}

impl NvmeOptions {
    /// The write cache that is reported: what is asked for, else one where a backend has one.
    #[must_use]
    pub fn cache_mode(&self, each: &[NamespaceOptions]) -> CacheMode {
        let image = || each.iter().any(|ns| ns.backend.path().is_some());
        self.cache.unwrap_or_else(|| match image() {
            true => CacheMode::Volatile,
            false => CacheMode::None,
        })
    }

    /// Refuses images that are there already, for a command that writes over all that it finds.
    ///
    /// # Errors
    /// The image, and what would do.
    pub fn refuse_images(
        &self,
        each: &[NamespaceOptions],
        command: &str,
    ) -> Result<(), OptionError> {
        let there = each
            .iter()
            .find(|ns| ns.backend.path().is_some_and(Path::exists));
        there.map_or(Ok(()), |ns| {
            let reason = format!(
                "{command} writes over all that is stored, so it takes no file that is there; give \
                 the path of one to make, with create=on and size="
            );
            Err(self.error("backend", ns.backend.text(), reason))
        })
    }

    /// Gives a namespace whose image is there the size of that; `asked` is whether the size that
    /// it has was asked for in the same breath as the image.
    pub(super) fn size_of_image(
        &self,
        ns: &mut NamespaceOptions,
        asked: bool,
    ) -> Result<(), OptionError> {
        let Some(path) = ns.backend.path() else {
            return match ns.create {
                true => {
                    let reason = "only an image is made; give backend=file:PATH too";
                    Err(self.error("create", "on", reason))
                }
                false => Ok(()),
            };
        };
        let wrong = |reason: String| Err(self.error("backend", ns.backend.text(), reason));
        let there = match Image::bytes_of(path) {
            Ok(there) => there,
            Err(error) => return wrong(error.to_string()),
        };
        let block = ns.block_bytes();
        match there {
            None if ns.create && asked => Ok(()),
            None if ns.create => {
                wrong("there is no such file; give the size of the one to make with size=".into())
            }
            None => wrong(
                "there is no such file; create=on with a size makes one, all zeroes".to_string(),
            ),
            Some(bytes) if asked && bytes != ns.size => wrong(format!(
                "the file has {} and not size={}; leave size out",
                Size(bytes),
                Size(ns.size)
            )),
            Some(bytes) if block > 0 && !bytes.is_multiple_of(block) => wrong(format!(
                "the file has {bytes} bytes, and a namespace is a whole number of logical blocks, \
                 here of {block}; make it one of {} bytes, or choose another lba",
                bytes.next_multiple_of(block)
            )),
            Some(bytes) => {
                ns.size = bytes;
                Ok(())
            }
        }
    }

    /// Opens what stands behind a namespace.
    pub(super) fn open(
        &self,
        ns: &NamespaceOptions,
        cache: CacheMode,
    ) -> Result<Arc<dyn BlockDevice>, OptionError> {
        match &ns.backend {
            Backend::Null => Ok(Arc::new(Null::new(ns.size))),
            Backend::Ram => match Ram::new(ns.size) {
                Ok(ram) => Ok(Arc::new(ram)),
                Err(error) => {
                    let reason = format!("{:#}", anyhow::Error::new(error));
                    Err(self.error("size", Size(ns.size).to_string(), reason))
                }
            },
            Backend::File(path) => {
                let options = ImageOptions {
                    create: ns.create.then_some(ns.size),
                    durable: cache == CacheMode::None,
                };
                let wrong = |reason: String| self.error("backend", ns.backend.text(), reason);
                let image = Image::open(path, options)
                    .map_err(|error: ImageError| wrong(error.to_string()))?;
                let bytes = image.geometry().bytes;
                match bytes == ns.size {
                    true => Ok(Arc::new(image)),
                    // It was looked at before the rules were.
                    false => Err(wrong(format!(
                        "its size changes: it is {} now",
                        Size(bytes)
                    ))),
                }
            }
        }
    }
}

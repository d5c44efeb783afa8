//! Options of the command line and of files: keys and values, sizes, and what they mean.

mod keys;
mod nvme;
mod size;

pub use keys::{OptionError, Origin};
pub use nvme::{Backend, ConfigFile, ConfigFileError, Doorbells, NamespaceOptions, NvmeOptions};
pub use size::{Size, parse_extent, parse_size};

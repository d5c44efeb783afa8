//! Options of the command line: `key=value` lists, sizes, and what they mean.

mod keys;
mod nvme;
mod size;

pub use keys::OptionError;
pub use nvme::{Backend, Doorbells, NamespaceOptions, NvmeOptions};
pub use size::{Size, parse_extent, parse_size};

//! The NVMe controller as a PCI function, and what drives it.

mod function;
pub mod inprocess;
mod workers;

pub use function::{FunctionError, NvmeFunction, NvmePciIds};
pub use workers::{WaitPolicy, WorkerPanic, Workers, WorkersError};

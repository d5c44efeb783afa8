//! The NVMe controller as a PCI function, and what drives it.

mod function;
pub mod inprocess;
mod ioeventfd;
mod workers;

pub use function::REGISTER_BAR;
pub use function::{FunctionError, NvmeFunction, NvmePciIds};
pub use ioeventfd::Ioeventfds;
pub use workers::{WaitPolicy, WorkerPanic, Workers, WorkersError};

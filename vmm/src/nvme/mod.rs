//! The NVMe controller as a PCI function, and what drives it.

mod clock;
mod function;
pub mod inprocess;
mod ioeventfd;
mod workers;

pub use clock::MonotonicClock;
pub use function::REGISTER_BAR;
pub use function::{FunctionError, NvmeFunction, NvmePciIds};
pub use ioeventfd::Ioeventfds;
pub use workers::{WaitPolicy, WorkerPanic, WorkerSleeps, Workers, WorkersError};

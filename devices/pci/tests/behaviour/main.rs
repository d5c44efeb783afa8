//! What the crate's users may rely on, through its public interface.

// `cfg(test)` tells clippy that the helpers below are tests' too.
#[cfg(test)]
mod bus;
#[cfg(test)]
mod common;
#[cfg(test)]
mod config_space;
#[cfg(test)]
mod endpoint;
#[cfg(test)]
mod msix;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod races;

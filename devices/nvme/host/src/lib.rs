//! A small, correct NVMe host driver, written against a [`Transport`].

#![no_std]
#![forbid(unsafe_code)]

mod transport;

pub use transport::Transport;

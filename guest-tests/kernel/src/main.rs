//! The test kernel's program.

#![no_std]
#![no_main]

guest_kernel::program!(guest_kernel::selfcheck::run);

//! PCI functions: configuration space, BARs, MSI-X and the host bridge.
//!
//! # The tour
//!
//! A device implements [`PciFunction`]: configuration accesses, BAR accesses, reset, each an
//! offset and bytes. It delegates all but its own registers to an [`Endpoint`], which ties
//! together
//!
//! - [`ConfigSpace`], the type 0 header, BARs and capabilities. A table of registers with
//!   write masks says what software may change; each write answers with [`Effects`], what it
//!   did change;
//! - [`Msix`], the vector table and pending bits. Workers call [`Msix::signal`] without a
//!   lock; vCPUs write the table; what gets through goes to a [`MsiRouter`].
//!
//! The front end hosts the function: a virtual machine puts it on a [`Bus`], whose
//! [`HostBridge`] software finds at 00:00.0, forwards ports CF8h to CFFh, ECAM and the BAR
//! windows, and follows the windows through a [`WindowListener`]; a vfio-user server calls
//! the trait directly.
//!
//! ```text
//!   guest:  CF8h/CFCh   ECAM        BAR windows          vfio-user client
//!              │          │              │                      │ regions, SET_IRQS
//!              └── Bus ───┘              │                      │
//!                   │ config_read/write  │ bar_read/write       │
//!                   ▼                    ▼                      ▼
//!              ┌───────────────── PciFunction ─────────────────────┐
//!              │ Endpoint: ConfigSpace ──control──► Msix ◄─signal──│── worker threads
//!              └──────────────────────────────────────┼────────────┘
//!                                                     ▼
//!                                       MsiRouter (irqfd, eventfd)
//! ```
//!
//! Whatever a guest or a peer sends, with any offset, width and alignment, is answered: what
//! does not exist reads as all ones and ignores writes. Nothing here panics on it, blocks or
//! allocates by it.
//!
//! # What is left out
//!
//! I/O BARs, expansion ROMs, bridges and buses other than 0, multi-function devices, INTx
//! routing (the pin register and its status bit are there), MSI without X, PME, extended
//! capabilities. This crate knows nothing of KVM, of file descriptors or of any device.

mod address;
mod bar;
mod builder;
mod bus;
pub mod capability;
mod config;
mod endpoint;
mod function;
pub mod header;
mod host_bridge;
mod msix;
mod registers;
mod windows;

pub use address::{Bdf, DEVICES_PER_BUS, ECAM_BUS_SIZE, FUNCTIONS_PER_DEVICE};
pub use bar::{Aperture, Bar, BarWidth, BarWindow, Bars};
pub use builder::{ConfigBuilder, ConfigError, Express, InterruptPin, PortType};
pub use bus::{Bus, BusError, CONFIG_ADDRESS_PORT, CONFIG_DATA_PORT, WindowListener};
pub use config::ConfigSpace;
pub use endpoint::Endpoint;
pub use function::{Effects, PciFunction};
pub use header::{ClassCode, Identity};
pub use host_bridge::{HOST_BRIDGE_DEVICE_ID, HostBridge, UNASSIGNED_VENDOR_ID};
pub use msix::{MsiMessage, MsiRouter, Msix, MsixControl, MsixLayout};

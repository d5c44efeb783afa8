//! The host bridge function at 00:00.0.

use std::sync::{Mutex, PoisonError};

use crate::bar::Bars;
use crate::builder::ConfigError;
use crate::config::ConfigSpace;
use crate::function::{Effects, PciFunction, read_absent};
use crate::header::{ClassCode, Identity};

/// The vendor ID this project uses where the user names no other: *Fe*, element 26.
///
/// No vendor ID has been assigned to this project by the PCI-SIG, and borrowing a company's
/// would claim to be its device and draw in its drivers' quirks. This one stands in no
/// public list of assigned IDs; it is a placeholder, claims nothing, and can be changed
/// wherever it is used.
pub const UNASSIGNED_VENDOR_ID: u16 = 0xFE26;

/// The default device ID of the host bridge under [`UNASSIGNED_VENDOR_ID`].
pub const HOST_BRIDGE_DEVICE_ID: u16 = 0x0001;

/// A host bridge: a header and nothing behind it. Software finds it at 00:00.0 and so knows
/// that configuration accesses work.
pub struct HostBridge {
    config: Mutex<ConfigSpace>,
}

impl HostBridge {
    /// The identity used unless the user names another.
    pub const DEFAULT_IDENTITY: Identity = Identity {
        vendor: UNASSIGNED_VENDOR_ID,
        device: HOST_BRIDGE_DEVICE_ID,
        subsystem_vendor: UNASSIGNED_VENDOR_ID,
        subsystem: HOST_BRIDGE_DEVICE_ID,
        class: ClassCode::HOST_BRIDGE,
        revision: 0,
    };

    /// A host bridge with these IDs. Its class code should be [`ClassCode::HOST_BRIDGE`].
    ///
    /// # Errors
    ///
    /// [`ConfigError::VendorId`].
    pub fn new(identity: Identity) -> Result<Self, ConfigError> {
        Ok(Self {
            config: Mutex::new(ConfigSpace::builder(identity).build()?),
        })
    }

    fn with<T>(&self, f: impl FnOnce(&mut ConfigSpace) -> T) -> T {
        f(&mut self.config.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl PciFunction for HostBridge {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.with(|config| config.read(offset, data));
    }

    fn config_write(&self, offset: u16, data: &[u8]) -> Effects {
        self.with(|config| config.write(offset, data))
    }

    fn bars(&self) -> Bars {
        Bars::default()
    }

    fn bar_base(&self, _bar: u8) -> Option<u64> {
        None
    }

    fn bar_read(&self, _bar: u8, _offset: u64, data: &mut [u8]) {
        read_absent(data);
    }

    fn bar_write(&self, _bar: u8, _offset: u64, _data: &[u8]) {}

    fn reset(&self) {
        self.with(|config| {
            let _ = config.reset();
        });
    }
}

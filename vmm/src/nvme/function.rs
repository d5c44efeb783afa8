//! The controller on PCI: configuration space, BAR0 for registers, BAR4 for MSI-X.

use std::sync::Arc;

use nvme::{Controller, ControllerConfig, Interrupt, SetupError, Shard};
use pci::{
    Bar, Bars, ClassCode, ConfigSpace, Effects, Endpoint, Express, Identity, MsiRouter, Msix,
    MsixLayout, PciFunction, PortType, UNASSIGNED_VENDOR_ID,
};
use storage::GuestRamHandle;
use thiserror::Error;

/// BAR of the controller's registers and doorbells.
pub const REGISTER_BAR: u8 = 0;
/// BAR of the MSI-X table and pending bits.
pub(crate) const MSIX_BAR: u8 = 4;
/// The pending bits lie behind the table at a multiple of this.
const PAGE: u64 = 4096;

/// PCI identifiers of the function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NvmePciIds {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Subsystem Vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

impl Default for NvmePciIds {
    /// A vendor ID that is assigned to nobody, so that no driver has quirks for it.
    fn default() -> Self {
        Self {
            vendor: UNASSIGNED_VENDOR_ID,
            device: 0x4E56,
            subsystem_vendor: UNASSIGNED_VENDOR_ID,
            subsystem: 0x0001,
        }
    }
}

/// The function could not be made.
#[derive(Debug, Error)]
pub enum FunctionError {
    /// The controller's configuration.
    #[error(transparent)]
    Controller(#[from] SetupError),
    /// The PCI description.
    #[error(transparent)]
    Pci(#[from] pci::ConfigError),
}

/// An NVMe controller as a PCI Express endpoint.
pub struct NvmeFunction {
    endpoint: Endpoint,
    controller: Arc<Controller>,
}

/// Interrupts of the controller are MSI-X vectors.
struct Vectors(Arc<Msix>);

impl Interrupt for Vectors {
    fn signal(&self, vector: u16) {
        self.0.signal(vector);
    }
}

/// Without vectors nothing is signalled; a controller has at least one.
struct NoVectors;

impl Interrupt for NoVectors {
    fn signal(&self, _vector: u16) {}
}

impl NvmeFunction {
    /// A function and the shards to poll. Its interrupts go to `router`.
    ///
    /// # Errors
    /// When the configuration breaks a rule, which the error names.
    pub fn new(
        mut config: ControllerConfig,
        ids: NvmePciIds,
        memory: GuestRamHandle,
        router: Arc<dyn MsiRouter>,
    ) -> Result<(Self, Vec<Shard>), FunctionError> {
        config.vendor_id = ids.vendor;
        config.subsystem_vendor_id = ids.subsystem_vendor;
        config.validate().map_err(SetupError::from)?;
        let mut layout = MsixLayout {
            vectors: config.vectors,
            table_bar: MSIX_BAR,
            table_offset: 0,
            pba_bar: MSIX_BAR,
            pba_offset: 0,
        };
        let pba = layout.table_size().next_multiple_of(PAGE);
        // At most 2,048 vectors of 16 bytes.
        layout.pba_offset = u32::try_from(pba).unwrap_or(u32::MAX);
        let msix_bytes = (pba + layout.pba_size()).next_power_of_two().max(PAGE);
        let registers_bytes = Controller::bar_bytes_of(&config);
        let space = ConfigSpace::builder(Identity {
            vendor: ids.vendor,
            device: ids.device,
            subsystem_vendor: ids.subsystem_vendor,
            subsystem: ids.subsystem,
            class: ClassCode::NVM_EXPRESS,
            revision: 1,
        })
        .bar(REGISTER_BAR, Bar::memory64(registers_bytes))
        .bar(MSIX_BAR, Bar::memory64(msix_bytes))
        .power_management()
        .msix(layout)
        .express(Express::new(PortType::IntegratedEndpoint).with_function_level_reset())
        .build()?;
        let endpoint = Endpoint::new(space, router);
        let interrupt: Arc<dyn Interrupt> = match endpoint.msix() {
            Some(msix) => Arc::new(Vectors(msix.clone())),
            None => Arc::new(NoVectors),
        };
        let (controller, shards) = Controller::new(config, memory, interrupt)?;
        let function = Self {
            endpoint,
            controller: Arc::new(controller),
        };
        // Bus mastering is off until the guest switches it on.
        let _ = function.config_write(0, &[]);
        Ok((function, shards))
    }

    /// The controller behind the function.
    #[must_use]
    pub const fn controller(&self) -> &Arc<Controller> {
        &self.controller
    }

    /// Whether a vector's pending bit is set.
    #[must_use]
    pub fn msix_pending(&self, vector: u16) -> bool {
        self.endpoint
            .msix()
            .is_some_and(|msix| msix.is_pending(vector))
    }
}

impl PciFunction for NvmeFunction {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.endpoint.config_read(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) -> Effects {
        let effects = self.endpoint.config_write_then(offset, data, |config, _| {
            self.controller.set_bus_master(config.bus_master());
        });
        if effects.contains(Effects::FUNCTION_LEVEL_RESET) {
            self.controller.function_reset();
        }
        effects
    }

    fn bars(&self) -> Bars {
        self.endpoint.bars()
    }

    fn bar_base(&self, bar: u8) -> Option<u64> {
        self.endpoint.bar_base(bar)
    }

    fn bar_read(&self, bar: u8, offset: u64, data: &mut [u8]) {
        self.endpoint.bar_read(bar, offset, data, |offset, data| {
            if bar == REGISTER_BAR {
                self.controller.bar_read(offset, data);
            } else {
                data.fill(0);
            }
        });
    }

    fn bar_write(&self, bar: u8, offset: u64, data: &[u8]) {
        self.endpoint.bar_write(bar, offset, data, |offset, data| {
            if bar == REGISTER_BAR {
                self.controller.bar_write(offset, data);
            }
        });
    }

    fn reset(&self) {
        self.controller.function_reset();
        self.endpoint.reset();
        // Writing nothing runs what follows a write, in the order of the writes.
        let _ = self.config_write(0, &[]);
    }
}

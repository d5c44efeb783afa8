//! Message-signalled interrupts: eventfds that KVM turns into messages.
//!
//! Each vector has a GSI and an eventfd that is registered with KVM once. What message the GSI
//! sends is a row of KVM's routing table, which is rewritten when a device unmasks a vector with
//! another message. Signalling is one write to the eventfd, from any thread.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry,
};
use kvm_ioctls::{Cap, VmFd};
use pci::{MsiMessage, MsiRouter};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::error::MachineError;

/// Pins of the IOAPIC, which have the first GSIs; the first 16 go to the PICs too.
const IOAPIC_PINS: u32 = 24;
const PIC_PINS: u32 = 16;

/// The VM's routing table.
pub struct IrqRoutes {
    vm: Arc<VmFd>,
    table: Mutex<Table>,
}

struct Table {
    next_gsi: u32,
    limit: u32,
    messages: BTreeMap<u32, MsiMessage>,
    /// KVM does not have all of `messages` yet.
    changed: bool,
}

impl IrqRoutes {
    pub(crate) fn new(vm: Arc<VmFd>) -> Self {
        let limit = u32::try_from(vm.check_extension_int(Cap::IrqRouting)).unwrap_or_default();
        let messages = BTreeMap::new();
        Self {
            vm,
            table: Mutex::new(Table {
                next_gsi: IOAPIC_PINS,
                limit,
                messages,
                changed: false,
            }),
        }
    }

    /// An interrupt line of the PICs and the IOAPIC, as an eventfd that raises an edge.
    ///
    /// # Errors
    /// When KVM refuses it.
    pub fn line(&self, gsi: u32) -> Result<EventFd, MachineError> {
        let line = eventfd().map_err(|source| MachineError::Host {
            what: "eventfd",
            source,
        })?;
        self.register(line, gsi)
    }

    fn register(&self, line: EventFd, gsi: u32) -> Result<EventFd, MachineError> {
        self.vm
            .register_irqfd(&line, gsi)
            .map_err(MachineError::kvm("KVM_IRQFD"))?;
        Ok(line)
    }

    /// A block of `vectors` vectors, none of which has a message yet.
    ///
    /// # Errors
    /// When more are asked for than KVM can route, the host has too few descriptors, or KVM
    /// refuses one. Nothing is taken then.
    pub fn block(self: &Arc<Self>, vectors: u16) -> Result<MsiBlock, MachineError> {
        // Locked until the GSIs are all had: they are the table's only then.
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        // The lines' rows count too: PIC pins have two.
        let left = table.limit.saturating_sub(table.next_gsi + PIC_PINS);
        if u32::from(vectors) > left {
            return Err(MachineError::Vectors {
                asked: vectors,
                left,
            });
        }
        let first = table.next_gsi;
        let next = first + u32::from(vectors);
        // Dropped half full, it gives its irqfds back.
        let mut block = MsiBlock {
            routes: Arc::clone(self),
            first,
            events: Vec::with_capacity(usize::from(vectors)),
        };
        for gsi in first..next {
            let event = eventfd().map_err(|source| MachineError::Descriptors {
                vectors,
                limit: descriptors(),
                source,
            })?;
            block.events.push(self.register(event, gsi)?);
        }
        table.next_gsi = next;
        Ok(block)
    }

    /// Notes a GSI's message; [`commit`](Self::commit) tells KVM.
    fn record(&self, gsi: u32, message: Option<MsiMessage>) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.record(gsi, message);
    }

    /// Tells KVM of every change since the last time, in one call.
    fn commit(&self) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = table.commit(|messages| self.write(messages)) {
            // Interrupts are lost until the next change, which takes this one along.
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, "interrupt routes");
        }
    }

    fn write(&self, messages: &BTreeMap<u32, MsiMessage>) -> Result<(), MachineError> {
        let lines = (0..IOAPIC_PINS).flat_map(|pin| {
            let pic = match pin {
                0..8 => Some(line_entry(pin, KVM_IRQCHIP_PIC_MASTER, pin)),
                8..PIC_PINS => Some(line_entry(pin, KVM_IRQCHIP_PIC_SLAVE, pin - 8)),
                _ => None,
            };
            pic.into_iter()
                .chain([line_entry(pin, KVM_IRQCHIP_IOAPIC, pin)])
        });
        let messages = messages
            .iter()
            .map(|(&gsi, message)| message_entry(gsi, message));
        let entries: Vec<_> = lines.chain(messages).collect();
        let routing =
            KvmIrqRouting::from_entries(&entries).map_err(|error| MachineError::Host {
                what: "interrupt routes",
                source: io::Error::other(format!("{error:?}")),
            })?;
        self.vm
            .set_gsi_routing(&routing)
            .map_err(MachineError::kvm("KVM_SET_GSI_ROUTING"))
    }
}

impl Table {
    fn record(&mut self, gsi: u32, message: Option<MsiMessage>) {
        self.changed |= match message {
            Some(message) => self.messages.insert(gsi, message) != Some(message),
            None => self.messages.remove(&gsi).is_some(),
        };
    }

    /// Writes what has changed. What is refused stays to be written.
    fn commit<E>(
        &mut self,
        write: impl FnOnce(&BTreeMap<u32, MsiMessage>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.changed {
            write(&self.messages)?;
            self.changed = false;
        }
        Ok(())
    }
}

/// The vectors of one device.
pub struct MsiBlock {
    routes: Arc<IrqRoutes>,
    first: u32,
    events: Vec<EventFd>,
}

impl MsiBlock {
    /// Number of vectors.
    #[must_use]
    pub fn vectors(&self) -> usize {
        self.events.len()
    }

    /// A vector's eventfd, for whoever signals it by himself.
    #[must_use]
    pub fn event(&self, vector: u16) -> Option<&EventFd> {
        self.events.get(usize::from(vector))
    }
}

impl MsiRouter for MsiBlock {
    fn route(&self, vector: u16, message: Option<MsiMessage>) {
        if self.event(vector).is_some() {
            self.routes.record(self.first + u32::from(vector), message);
        }
    }

    fn commit(&self) {
        self.routes.commit();
    }

    fn signal(&self, vector: u16) {
        if let Some(event) = self.event(vector) {
            // Fails only when 2^64 - 2 signals wait, and then one more changes nothing.
            let _ = event.write(1);
        }
    }
}

impl Drop for MsiBlock {
    fn drop(&mut self) {
        for (gsi, event) in (self.first..).zip(&self.events) {
            // The VM may be going too; there is no one to tell.
            let _ = self.routes.vm.unregister_irqfd(event, gsi);
        }
    }
}

fn eventfd() -> io::Result<EventFd> {
    EventFd::new(EFD_NONBLOCK)
}

/// Descriptors that this process may have open.
fn descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Lets this process have as many descriptors as it may allow itself: a vector takes one, and the
/// usual soft limit of 1,024 is kept low only for programs that use select(2).
pub(crate) fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            ..limit
        };
        // Refused, the limit stays; whoever runs into it is told.
        let _ = setrlimit(Resource::Nofile, raised);
    }
}

fn line_entry(gsi: u32, chip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        ..Default::default()
    };
    entry.u.irqchip.irqchip = chip;
    entry.u.irqchip.pin = pin;
    entry
}

fn message_entry(gsi: u32, message: &MsiMessage) -> kvm_irq_routing_entry {
    let (low, high) = (message.address & 0xffff_ffff, message.address >> 32);
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    entry.u.msi.address_lo = u32::try_from(low).unwrap_or_default();
    entry.u.msi.address_hi = u32::try_from(high).unwrap_or_default();
    entry.u.msi.data = message.data;
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_routes_are_written_with_the_next_commit() {
        let mut table = Table {
            next_gsi: IOAPIC_PINS,
            limit: 4096,
            messages: BTreeMap::new(),
            changed: false,
        };
        let message = MsiMessage {
            address: 0xfee0_0000,
            data: 0x30,
        };
        table.record(24, Some(message));
        assert_eq!(table.commit(|_| Err("refused")), Err("refused"));
        let mut written = None;
        let commit = table.commit(|messages| {
            written = messages.get(&24).copied();
            Ok::<_, &str>(())
        });
        assert_eq!((commit, written), (Ok(()), Some(message)));
        // Nothing has changed since.
        assert_eq!(table.commit(|_| Err("written again")), Ok(()));
        table.record(24, Some(message));
        assert_eq!(table.commit(|_| Err("written again")), Ok(()));
    }
}

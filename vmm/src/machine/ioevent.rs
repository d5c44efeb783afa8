//! Registers whose writes KVM turns into events: the CPU goes on, and no one learns the value.

#![expect(unsafe_code, reason = "a descriptor that is owned becomes an EventFd")]

use std::collections::BTreeMap;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

/// An eventfd that KVM may signal.
pub struct Event(EventFd);

impl From<OwnedFd> for Event {
    /// `eventfd` must be one, or KVM refuses it.
    fn from(eventfd: OwnedFd) -> Self {
        // SAFETY: the descriptor is owned, open, and given away here.
        Self(unsafe { EventFd::from_raw_fd(eventfd.into_raw_fd()) })
    }
}

/// Events (KVM's ioeventfds) in one BAR of a function. They follow the BAR where it goes, and are
/// none while it does not answer.
///
/// An event takes writes of every width at its offset: KVM cannot look at the width alone. Where
/// KVM refuses one, a message says so once, and the writes come as exits.
pub struct BarEvents {
    vm: Arc<VmFd>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where the BAR answers.
    base: Option<u64>,
    /// By offset in the BAR.
    events: BTreeMap<u64, Registered>,
    warned: bool,
}

struct Registered {
    event: Arc<Event>,
    /// The address that KVM has it at.
    address: Option<u64>,
}

impl BarEvents {
    pub(crate) fn new(vm: Arc<VmFd>) -> Self {
        let state = Mutex::default();
        Self { vm, state }
    }

    /// Has writes at `offset` of the BAR signal `event` instead of coming as exits.
    pub fn attach(&self, offset: u64, event: &Arc<Event>) {
        let State {
            base,
            events,
            warned,
        } = &mut *self.lock();
        let new = Registered {
            event: Arc::clone(event),
            address: None,
        };
        if let Some(mut old) = events.insert(offset, new) {
            self.unregister(&mut old);
        }
        if let (Some(base), Some(new)) = (*base, events.get_mut(&offset)) {
            self.register(new, base.wrapping_add(offset), warned);
        }
    }

    /// Has writes at `offset` come as exits again.
    pub fn detach(&self, offset: u64) {
        if let Some(mut old) = self.lock().events.remove(&offset) {
            self.unregister(&mut old);
        }
    }

    /// Events attached, and those of them that KVM has taken.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        let state = self.lock();
        let taken = state.events.values().filter(|one| one.address.is_some());
        (state.events.len(), taken.count())
    }

    /// The BAR is to answer at `base`: nothing is left at another place.
    pub(crate) fn leave(&self, base: Option<u64>) {
        if self.lock().base != base {
            self.moved(None);
        }
    }

    /// The BAR answers at `base` from now on, or nowhere.
    pub(crate) fn moved(&self, base: Option<u64>) {
        let mut state = self.lock();
        if state.base == base {
            return;
        }
        let State {
            base: old,
            events,
            warned,
        } = &mut *state;
        *old = base;
        for (offset, one) in events {
            self.unregister(one);
            if let Some(base) = base {
                self.register(one, base.wrapping_add(*offset), warned);
            }
        }
    }

    fn register(&self, one: &mut Registered, address: u64, warned: &mut bool) {
        let at = IoEventAddress::Mmio(address);
        match self.vm.register_ioevent(&one.event.0, &at, NoDatamatch) {
            Ok(()) => one.address = Some(address),
            Err(_) if *warned => {}
            Err(error) => {
                *warned = true;
                tracing::warn!(
                    %error,
                    address = format_args!("{address:#x}"),
                    "KVM_IOEVENTFD: such writes come as exits"
                );
            }
        }
    }

    fn unregister(&self, one: &mut Registered) {
        if let Some(address) = one.address.take() {
            let at = IoEventAddress::Mmio(address);
            if let Err(error) = self.vm.unregister_ioevent(&one.event.0, &at, NoDatamatch) {
                tracing::error!(%error, address, "KVM_IOEVENTFD: cannot be taken back");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for BarEvents {
    fn drop(&mut self) {
        self.moved(None);
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;
    use crate::machine::{MachineError, kvm};

    fn event() -> Arc<Event> {
        let fd = eventfd(0, EventfdFlags::NONBLOCK).expect("a descriptor");
        Arc::new(fd.into())
    }

    /// A VM without CPUs; without KVM the test says so and is skipped, unless skips are forbidden.
    fn vm() -> Option<Arc<VmFd>> {
        match kvm::open() {
            Ok(kvm) => Some(Arc::new(kvm.create_vm().expect("a VM"))),
            Err(
                error @ (MachineError::NoKvm
                | MachineError::KvmPermission { .. }
                | MachineError::KvmForbidden),
            ) => {
                let forbidden = std::env::var_os("FERRITE_FORBID_SKIPS").is_some_and(|v| v == "1");
                assert!(!forbidden, "skips are forbidden: {error}");
                println!("skipped: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Whether KVM has an event at an address: it refuses a second one.
    fn taken(vm: &VmFd, address: u64) -> bool {
        let (probe, at) = (event(), IoEventAddress::Mmio(address));
        if vm.register_ioevent(&probe.0, &at, NoDatamatch).is_err() {
            return true;
        }
        vm.unregister_ioevent(&probe.0, &at, NoDatamatch)
            .expect("registered just now");
        false
    }

    #[test]
    fn events_follow_their_bar_and_go_with_it() {
        let Some(vm) = vm() else { return };
        let bar = BarEvents::new(Arc::clone(&vm));
        let worker = event();
        bar.attach(0x1008, &worker);
        assert_eq!(bar.count(), (1, 0), "the BAR does not answer yet");
        bar.moved(Some(0xE000_0000));
        bar.attach(0x100C, &worker);
        assert_eq!(bar.count(), (2, 2));
        assert!(taken(&vm, 0xE000_1008) && taken(&vm, 0xE000_100C));
        assert!(!taken(&vm, 0xE000_1000));
        bar.leave(Some(0xE000_0000));
        assert_eq!(bar.count(), (2, 2), "it stays");
        bar.leave(Some(0xE100_0000));
        assert!(!taken(&vm, 0xE000_1008));
        bar.moved(Some(0xE100_0000));
        assert!(taken(&vm, 0xE100_1008) && taken(&vm, 0xE100_100C));
        bar.detach(0x1008);
        bar.detach(0x1008);
        assert!(!taken(&vm, 0xE100_1008));
        bar.moved(None);
        assert!(!taken(&vm, 0xE100_100C));
        bar.moved(Some(0xE000_0000));
        assert!(taken(&vm, 0xE000_100C));
        drop(bar);
        assert!(!taken(&vm, 0xE000_100C));
    }

    #[test]
    fn what_kvm_refuses_is_left_and_tried_again_where_the_bar_goes() {
        let Some(vm) = vm() else { return };
        let bar = BarEvents::new(Arc::clone(&vm));
        let (worker, other) = (event(), event());
        let at = IoEventAddress::Mmio(0xE000_1008);
        vm.register_ioevent(&other.0, &at, NoDatamatch)
            .expect("free");
        bar.moved(Some(0xE000_0000));
        bar.attach(0x1008, &worker);
        assert_eq!(bar.count(), (1, 0));
        bar.moved(Some(0xE100_0000));
        assert_eq!(bar.count(), (1, 1));
        bar.detach(0x1008);
        assert!(taken(&vm, 0xE000_1008), "not ours to take back");
    }
}

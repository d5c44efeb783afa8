//! The Changed Attached Namespace list (Base 5.1.12.1.5).

use std::collections::BTreeSet;

use nvme_spec::{
    NSID_BROADCAST,
    log::{CHANGED_NAMESPACES_LIMIT, ChangedNamespaces},
};
use zerocopy::FromZeros;

/// The namespaces that changed since the host last read the list.
#[derive(Debug, Default)]
pub(super) struct Changed {
    nsids: BTreeSet<u32>,
    /// There were more than the list has room for.
    more: bool,
}

impl Changed {
    /// Adds a namespace.
    pub(super) fn add(&mut self, nsid: u32) {
        if self.more {
            return;
        }
        self.nsids.insert(nsid);
        if self.nsids.len() > CHANGED_NAMESPACES_LIMIT {
            self.nsids.clear();
            self.more = true;
        }
    }

    /// Forgets all: the host has read them.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The log page.
    pub(super) fn page(&self) -> ChangedNamespaces {
        let mut page = ChangedNamespaces::new_zeroed();
        let too_many = self.more.then_some(NSID_BROADCAST);
        let nsids = self.nsids.iter().copied().chain(too_many);
        for (place, nsid) in page.nsids.iter_mut().zip(nsids) {
            *place = nsid;
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_listed_once_in_order_and_too_many_as_all() {
        let mut changed = Changed::default();
        for nsid in [7, 3, 7] {
            changed.add(nsid);
        }
        assert_eq!(changed.page().nsids[..3], [3, 7, 0]);
        changed.clear();
        assert_eq!(changed.page().nsids, [0; CHANGED_NAMESPACES_LIMIT]);
        for nsid in 1..=1024 {
            changed.add(nsid);
        }
        assert_eq!(changed.page().nsids[1023], 1024);
        for nsid in 1025..=3000 {
            changed.add(nsid);
        }
        assert_eq!(changed.page().nsids[..2], [NSID_BROADCAST, 0]);
        changed.clear();
        changed.add(5);
        assert_eq!(changed.page().nsids[..2], [5, 0]);
    }
}

//! The controller's lifecycle: one enum, stepped by a pure function.
//!
//! CC.EN, CC.SHN and internal events go in; the state comes out, and CSTS is derived from it on
//! each read (Base 3.5, 3.6, 3.7). Nothing else in the crate decides what CSTS says.

use nvme_spec::registers::{Csts, Shst};

/// What the controller is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lifecycle {
    /// CC.EN is 0 and nothing runs.
    Disabled,
    /// CC.EN went to 1; shard 0 is making the admin queues.
    Enabling,
    /// Commands are processed.
    Ready,
    /// CC.SHN asked for a shutdown; the shards are finishing. `rdy` is what CSTS.RDY was.
    ShuttingDown {
        /// CSTS.RDY.
        rdy: bool,
    },
    /// The shutdown is complete.
    ShutDown {
        /// CSTS.RDY.
        rdy: bool,
    },
    /// CC.EN went to 0; the shards are dropping their queues.
    Resetting {
        /// CSTS.RDY, which stays until the last shard is done.
        rdy: bool,
    },
    /// A fatal error; only a reset leads on.
    Failed {
        /// CSTS.RDY.
        rdy: bool,
    },
}

/// What happens to the lifecycle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// CC.EN: 0 to 1.
    Enable,
    /// CC.EN: 1 to 0.
    Disable,
    /// CC.SHN: to normal or abrupt.
    Shutdown,
    /// The admin queues are there.
    Enabled,
    /// CC, AQA, ASQ or ACQ cannot be worked with.
    EnableFailed,
    /// Every shard has finished what a shutdown or reset asked of it.
    Quiesced,
    /// Something fatal: queue memory that cannot be reached, or a thread that died.
    Fatal,
    /// A reset of the function: as `Disable`, from any state.
    FunctionReset,
}

impl Lifecycle {
    /// The state after `event`. An event that means nothing in a state leaves it as it is.
    #[must_use]
    pub const fn step(self, event: Event) -> Self {
        use Event as E;
        use Lifecycle as L;
        match (self, event) {
            (L::Disabled | L::ShutDown { rdy: false }, E::Enable) => L::Enabling,
            (L::Enabling, E::Enabled) => L::Ready,
            (L::Enabling, E::EnableFailed) => L::Failed { rdy: false },
            (L::Disabled | L::Enabling, E::Shutdown) => L::ShuttingDown { rdy: false },
            (L::Ready, E::Shutdown) => L::ShuttingDown { rdy: true },
            (L::ShuttingDown { rdy }, E::Quiesced) => L::ShutDown { rdy },
            (L::Resetting { .. }, E::Quiesced) => L::Disabled,
            // RDY of before must not answer the new CC.EN.
            (L::Resetting { .. }, E::Enable) => L::Resetting { rdy: false },
            (L::Failed { .. }, E::Fatal) => self,
            (_, E::Fatal) => L::Failed { rdy: self.rdy() },
            (L::Disabled | L::Resetting { .. }, E::Disable) => self,
            (_, E::Disable | E::FunctionReset) => L::Resetting { rdy: self.rdy() },
            _ => self,
        }
    }

    const fn rdy(self) -> bool {
        match self {
            Self::Disabled | Self::Enabling => false,
            Self::Ready => true,
            Self::ShuttingDown { rdy }
            | Self::ShutDown { rdy }
            | Self::Resetting { rdy }
            | Self::Failed { rdy } => rdy,
        }
    }

    /// Controller Status (Base 3.1.4.6).
    #[must_use]
    pub const fn csts(self) -> Csts {
        let shst = match self {
            Self::ShuttingDown { .. } => Shst::Occurring,
            Self::ShutDown { .. } => Shst::Complete,
            _ => Shst::Normal,
        };
        Csts::new()
            .with_rdy(self.rdy())
            .with_cfs(matches!(self, Self::Failed { .. }))
            .with_shst(shst)
    }
}

#[cfg(test)]
mod tests {
    use super::{Event as E, Lifecycle as L};

    const STATES: [L; 11] = [
        L::Disabled,
        L::Enabling,
        L::Ready,
        L::ShuttingDown { rdy: false },
        L::ShuttingDown { rdy: true },
        L::ShutDown { rdy: false },
        L::ShutDown { rdy: true },
        L::Resetting { rdy: false },
        L::Resetting { rdy: true },
        L::Failed { rdy: false },
        L::Failed { rdy: true },
    ];
    const EVENTS: [E; 8] = [
        E::Enable,
        E::Disable,
        E::Shutdown,
        E::Enabled,
        E::EnableFailed,
        E::Quiesced,
        E::Fatal,
        E::FunctionReset,
    ];

    /// One row a state, one column an event, in the order of the arrays above.
    #[rustfmt::skip]
    const TABLE: [[L; 8]; 11] = {
        const D: L = L::Disabled;
        const EN: L = L::Enabling;
        const R: L = L::Ready;
        const SG0: L = L::ShuttingDown { rdy: false };
        const SG1: L = L::ShuttingDown { rdy: true };
        const SD0: L = L::ShutDown { rdy: false };
        const SD1: L = L::ShutDown { rdy: true };
        const RS0: L = L::Resetting { rdy: false };
        const RS1: L = L::Resetting { rdy: true };
        const F0: L = L::Failed { rdy: false };
        const F1: L = L::Failed { rdy: true };
        [
            // Enable Disable Shutdown Enabled EnableFailed Quiesced Fatal FunctionReset
            [EN,  D,   SG0, D,   D,   D,   F0,  RS0],
            [EN,  RS0, SG0, R,   F0,  EN,  F0,  RS0],
            [R,   RS1, SG1, R,   R,   R,   F1,  RS1],
            [SG0, RS0, SG0, SG0, SG0, SD0, F0,  RS0],
            [SG1, RS1, SG1, SG1, SG1, SD1, F1,  RS1],
            [EN,  RS0, SD0, SD0, SD0, SD0, F0,  RS0],
            [SD1, RS1, SD1, SD1, SD1, SD1, F1,  RS1],
            [RS0, RS0, RS0, RS0, RS0, D,   F0,  RS0],
            [RS0, RS1, RS1, RS1, RS1, D,   F1,  RS1],
            [F0,  RS0, F0,  F0,  F0,  F0,  F0,  RS0],
            [F1,  RS1, F1,  F1,  F1,  F1,  F1,  RS1],
        ]
    };

    #[test]
    fn every_state_and_event() {
        for (state, row) in STATES.into_iter().zip(TABLE) {
            for (event, expected) in EVENTS.into_iter().zip(row) {
                assert_eq!(state.step(event), expected, "{state:?} on {event:?}");
            }
        }
    }

    #[test]
    fn status_bits_follow_the_state() {
        let bits = |state: L| u32::from(state.csts());
        assert_eq!(bits(L::Disabled), 0b0000);
        assert_eq!(bits(L::Enabling), 0b0000);
        assert_eq!(bits(L::Ready), 0b0001);
        assert_eq!(bits(L::ShuttingDown { rdy: true }), 0b0101);
        assert_eq!(bits(L::ShutDown { rdy: true }), 0b1001);
        assert_eq!(bits(L::ShutDown { rdy: false }), 0b1000);
        assert_eq!(bits(L::Resetting { rdy: true }), 0b0001);
        assert_eq!(bits(L::Failed { rdy: false }), 0b0010);
    }
}

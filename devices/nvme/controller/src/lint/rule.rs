//! The rules that a host is held to, each with its name, its reason and its section.

use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// The specification forbids it, or leaves undefined what comes of it.
    Error,
    /// Allowed, or said nothing of, and nearly always a mistake.
    Note,
}

impl Severity {
    /// `error` or `note`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Note => "note",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What is known of a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RuleInfo {
    /// Its name, which does not change: lower case words with hyphens.
    pub id: &'static str,
    /// How bad it is to break it.
    pub severity: Severity,
    /// What the host did, in a line.
    pub what: &'static str,
    /// What comes of it, on this controller or on others.
    pub why: &'static str,
    /// Where the rule stands: Base 2.1 (`Base`), NVMe over PCIe Transport 1.1 (`PCIe`), PCI 3.0
    /// (`PCI`).
    pub section: &'static str,
}

macro_rules! rules {
    ($( $rule:ident $id:literal $severity:ident $section:literal $what:literal $why:literal )*) => {
        /// A rule that a host can break. Its [`info`](Self::info) says what it is about.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Rule {
            $( #[doc = $what] $rule, )*
        }

        impl Rule {
            /// Every rule: registers, doorbells, queues, commands.
            pub const ALL: [Self; [$( $id ),*].len()] = [$( Self::$rule ),*];

            /// What is known of the rule.
            #[must_use]
            pub const fn info(self) -> RuleInfo {
                match self {
                    $( Self::$rule => RuleInfo {
                        id: $id,
                        severity: Severity::$severity,
                        what: $what,
                        why: $why,
                        section: $section,
                    }, )*
                }
            }
        }
    };
}

rules! {
    CcWrittenWhileNotReady "cc-written-while-not-ready" Error "Base 3.1.4.5"
        "CC.EN was changed before CSTS.RDY had followed its last change."
        "What comes of it is undefined: a controller may come up half, or never."
    CcChangedWhileEnabled "cc-changed-while-enabled" Error "Base 3.1.4.5"
        "CSS, MPS or AMS of CC was changed while CC.EN is 1, or an entry size while I/O queues exist."
        "The controller goes on with the old value, or breaks: host and controller no longer agree on page or entry sizes."
    AdminQueueChangedWhileEnabled "admin-queue-changed-while-enabled" Error "Base 3.1.4.8"
        "AQA, ASQ or ACQ was changed while CC.EN is 1."
        "The controller goes on with the old queues, and the host waits at the new ones."
    CannotBeEnabled "cannot-be-enabled" Error "Base 3.5.1"
        "CC.EN was set while CC, AQA, ASQ or ACQ describe what the controller cannot work with."
        "The controller sets CSTS.CFS or never gets ready, and does not say why."
    RegisterAccessWidth "register-access-width" Error "PCIe 3.1.1"
        "A register was accessed in another width or alignment than its own, or than aligned halves of a 64-bit one."
        "Reads give anything, writes may be lost or hit a neighbour; CPUs and compilers that split or join accesses make it come and go."
    ReadOnlyRegisterWritten "read-only-register-written" Note "Base 3.1.4"
        "A register that is read only was written."
        "Nothing happens; the offset is probably wrong."
    ReservedBitsSet "reserved-bits-set" Error "Base 4.1.1"
        "Reserved bits of a register or of a command are not 0."
        "A later version gives them a meaning, and its controllers then do something else; often a structure that was not cleared."
    SqTailBeyondRing "sq-tail-beyond-ring" Error "PCIe 3.1.2.1"
        "A submission queue tail was rung that is no entry of the queue."
        "It submits nothing, or what is not there; often the wrap at the end of the ring is missing."
    SqOverrun "sq-overrun" Error "Base 3.3.1.2"
        "A submission queue tail was rung that passes entries the controller has not fetched."
        "Commands are lost or done twice: one slot stays empty, and a slot is free once a completion's SQHD has passed it."
    CqHeadBeyondRing "cq-head-beyond-ring" Error "PCIe 3.1.2.2"
        "A completion queue head was rung that is no entry of the queue."
        "It frees nothing, and the queue fills up; often the wrap at the end of the ring is missing."
    CqHeadBeyondPosted "cq-head-beyond-posted" Error "PCIe 3.1.2.2"
        "A completion queue head was rung that passes completions which were not posted, or goes back."
        "Slots are used again too early or never; often the phase tag is compared with the wrong pass."
    DoorbellOfNoQueue "doorbell-of-no-queue" Error "PCIe 3.1.2.1"
        "A doorbell of a queue that does not exist was rung."
        "Nothing is fetched; a stride other than CAP.DSTRD's, or a queue that was deleted."
    DoorbellWhileNotReady "doorbell-while-not-ready" Error "Base 3.5.1"
        "A submission queue tail was rung while the controller was not ready, or was shutting down."
        "The commands are never answered. (A completion queue head may come late: drivers reap after disabling.)"
    DoorbellUnchanged "doorbell-unchanged" Note "Base 5.1.2.1"
        "A doorbell was rung with the value it has."
        "Each costs an access for nothing, and controllers may report it as an invalid doorbell value."
    DoorbellRead "doorbell-read" Note "PCIe 3.1.2.1"
        "A doorbell was read."
        "It gives no value that means anything; keep tail and head in memory."
    ShadowNotWritten "shadow-not-written" Error "Base 5.2.5"
        "A doorbell was rung with another value than its shadow doorbell holds."
        "The controller takes the value from memory, and the ring counts for nothing: store it there first, for new queues too, with a barrier before the register."
    EventIndexWritten "event-index-written" Error "Base 5.2.5"
        "The host wrote to the event index of a doorbell."
        "It is the controller's: rings that it waits for are left out, and commands wait for ever."
    BusMasterOff "bus-master-off" Note "PCI 6.2.2"
        "A submission queue tail was rung while the function's Bus Master Enable is 0."
        "The controller may not read memory: the commands wait for ever."
    QueuesOverlap "queues-overlap" Error "Base 3.3.1"
        "A queue was made in memory that another queue lies in."
        "Completions overwrite commands, or each other."
    QueueNowhere "queue-nowhere" Error "Base 3.3.1"
        "A queue was to be made where there is no memory."
        "The controller refuses it, or stops with CSTS.CFS at its first use."
    CqPhaseNotClear "cq-phase-not-clear" Error "Base 4.2.4"
        "A completion queue was made in memory whose phase tags are not all 0."
        "The host takes old memory for completions: commands end that were never done."
    CidReused "cid-reused" Error "Base 4.1.1"
        "A command has the identifier of one of its queue's commands that is not completed."
        "The completions cannot be told apart, and the controller may refuse one of them."
    CidFfff "cid-ffff" Note "Base 4.1.1"
        "A command has the identifier FFFFh."
        "The Error Information log says FFFFh where no command is meant."
    SqeChanged "sqe-changed-after-doorbell" Error "Base 3.3.1"
        "A submission queue entry changed between its doorbell and its fetch."
        "Which command is done is a race: ring after the entry is stored, with a barrier, and reuse a slot only when SQHD has passed it."
    NsidNotUsed "nsid-not-used" Error "Base 4.1.1"
        "A command that concerns no namespace has an NSID."
        "The field is to be 0 then, and controllers may refuse the command."
    PrpNowhere "prp-nowhere" Error "Base 4.3.1"
        "A PRP entry, or a pointer to a PRP list, leads where there is no memory."
        "The command fails with Data Transfer Error; real hardware ends in an IOMMU fault or a bus error."
    PrpMisaligned "prp-misaligned" Error "Base 4.3.1"
        "A PRP entry is not aligned as its place asks."
        "The command fails with PRP Offset Invalid, or the controller drops the low bits and uses other memory."
    PrpListChanged "prp-list-changed" Error "Base 4.3.1"
        "A PRP list changed between its command's doorbell and its completion."
        "The controller may read the list at any time until then: data lands in memory that is not the command's."
    DataOverPrpList "data-over-prp-list" Error "Base 4.3.1"
        "A command's data is to be written over its own PRP list."
        "The controller may read the list after it has overwritten it."
    DataOverQueue "data-over-queue" Note "Base 3.3.1"
        "A command's data is to be written over a queue."
        "Commands and completions are overwritten; often the queue's memory was freed and given out again."
    ShutdownWithCommands "shutdown-with-commands" Note "Base 3.6.1"
        "CC.SHN was set while commands other than Asynchronous Event Requests were outstanding."
        "They may end without completion; let them complete first."
}

impl Rule {
    /// The rule's name: lower case words with hyphens.
    #[must_use]
    pub const fn id(self) -> &'static str {
        self.info().id
    }

    /// How bad it is to break the rule.
    #[must_use]
    pub const fn severity(self) -> Severity {
        self.info().severity
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_words_with_hyphens_and_unlike() {
        for (index, rule) in Rule::ALL.into_iter().enumerate() {
            assert_eq!(rule as usize, index);
            let info = rule.info();
            let fine = |b: u8| b.is_ascii_lowercase() || b == b'-';
            assert!(info.id.bytes().all(fine), "{}", info.id);
            assert!(info.what.ends_with('.') && !info.why.is_empty());
            let same = Rule::ALL.iter().filter(|other| other.id() == info.id);
            assert_eq!(same.count(), 1, "{}", info.id);
        }
    }
}

//! The feature table: what may be asked of the controller.
//!
//! Dispatch looks commands, features, log pages and Identify structures up here, and Identify's
//! capability bits are sums over the same rows: what is advertised works, and what works is
//! advertised. Each row names the version of the specification that first asks for it.

use nvme_spec::{
    AdminOpcode, Cns, FeatureId, LogId, NvmOpcode,
    identify::{
        FUSES_COMPARE_AND_WRITE, LPA_COMMANDS_EFFECTS, LPA_EXTENDED, LPA_MISCELLANEOUS,
        OACS_DOORBELL_BUFFER_CONFIG, OACS_FORMAT_NVM, ONCS_COMPARE, ONCS_DATASET_MANAGEMENT,
        ONCS_FEATURES_SAVE_SELECT, ONCS_TIMESTAMP, ONCS_VERIFY, ONCS_WRITE_ZEROES,
    },
    registers::Vs,
};

use crate::config::{CacheMode, ControllerConfig};

/// A row: something a host may ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<Id, Kind> {
    pub(crate) id: Id,
    pub(crate) kind: Kind,
    /// The first version that makes it mandatory for an I/O controller; `None` if optional.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "documents the row; the tests hold it")
    )]
    pub(crate) mandatory: Option<Vs>,
    /// The bits of OACS, ONCS or LPA that advertise it, if any.
    pub(crate) advertised: u16,
}

const V1_0: Vs = Vs::new().with_mjr(1);
const V1_1: Vs = Vs::new().with_mjr(1).with_mnr(1);
const V1_3: Vs = Vs::new().with_mjr(1).with_mnr(3);

const fn mandatory<Id, Kind>(id: Id, kind: Kind, since: Vs) -> Row<Id, Kind>
where
    Id: Copy,
    Kind: Copy,
{
    Row {
        id,
        kind,
        mandatory: Some(since),
        advertised: 0,
    }
}

const fn optional<Id, Kind>(id: Id, kind: Kind, advertised: u16) -> Row<Id, Kind>
where
    Id: Copy,
    Kind: Copy,
{
    Row {
        id,
        kind,
        mandatory: None,
        advertised,
    }
}

/// As [`mandatory`], of what a host is told all the same.
const fn mandatory_and_advertised<Id, Kind>(
    id: Id,
    kind: Kind,
    since: Vs,
    advertised: u16,
) -> Row<Id, Kind>
where
    Id: Copy,
    Kind: Copy,
{
    Row {
        id,
        kind,
        mandatory: Some(since),
        advertised,
    }
}

/// What an admin command does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AdminKind {
    DeleteSq,
    CreateSq,
    GetLogPage,
    DeleteCq,
    CreateCq,
    Identify,
    Abort,
    SetFeatures,
    GetFeatures,
    AsyncEventRequest,
    KeepAlive,
    DoorbellBufferConfig,
    FormatNvm,
}

/// The admin commands.
pub(crate) const ADMIN: &[Row<AdminOpcode, AdminKind>] = &[
    mandatory(AdminOpcode::DELETE_IO_SQ, AdminKind::DeleteSq, V1_0),
    mandatory(AdminOpcode::CREATE_IO_SQ, AdminKind::CreateSq, V1_0),
    mandatory(AdminOpcode::GET_LOG_PAGE, AdminKind::GetLogPage, V1_0),
    mandatory(AdminOpcode::DELETE_IO_CQ, AdminKind::DeleteCq, V1_0),
    mandatory(AdminOpcode::CREATE_IO_CQ, AdminKind::CreateCq, V1_0),
    mandatory(AdminOpcode::IDENTIFY, AdminKind::Identify, V1_0),
    mandatory(AdminOpcode::ABORT, AdminKind::Abort, V1_0),
    mandatory(AdminOpcode::SET_FEATURES, AdminKind::SetFeatures, V1_0),
    mandatory(AdminOpcode::GET_FEATURES, AdminKind::GetFeatures, V1_0),
    mandatory(
        AdminOpcode::ASYNC_EVENT_REQUEST,
        AdminKind::AsyncEventRequest,
        V1_0,
    ),
    // KAS tells of it.
    optional(AdminOpcode::KEEP_ALIVE, AdminKind::KeepAlive, 0),
    optional(
        AdminOpcode::DOORBELL_BUFFER_CONFIG,
        AdminKind::DoorbellBufferConfig,
        OACS_DOORBELL_BUFFER_CONFIG,
    ),
    optional(
        AdminOpcode::FORMAT_NVM,
        AdminKind::FormatNvm,
        OACS_FORMAT_NVM,
    ),
];

/// What an I/O command does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum IoKind {
    Flush,
    Write,
    Read,
    Compare,
    WriteZeroes,
    DatasetManagement,
    Verify,
}

/// The I/O commands of the NVM Command Set.
pub(crate) const IO: &[Row<NvmOpcode, IoKind>] = &[
    mandatory(NvmOpcode::FLUSH, IoKind::Flush, V1_0),
    mandatory(NvmOpcode::WRITE, IoKind::Write, V1_0),
    mandatory(NvmOpcode::READ, IoKind::Read, V1_0),
    optional(NvmOpcode::COMPARE, IoKind::Compare, ONCS_COMPARE),
    optional(
        NvmOpcode::WRITE_ZEROES,
        IoKind::WriteZeroes,
        ONCS_WRITE_ZEROES,
    ),
    optional(
        NvmOpcode::DATASET_MANAGEMENT,
        IoKind::DatasetManagement,
        ONCS_DATASET_MANAGEMENT,
    ),
    optional(NvmOpcode::VERIFY, IoKind::Verify, ONCS_VERIFY),
];

/// Fused operations: the first command, the second, and the bit of FUSES (Base 5.1.13.2.1).
pub(crate) const FUSED: &[(IoKind, IoKind, u16)] =
    &[(IoKind::Compare, IoKind::Write, FUSES_COMPARE_AND_WRITE)];

/// A log page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LogKind {
    SupportedPages,
    Error,
    Smart,
    FirmwareSlot,
    ChangedNamespaces,
    CommandsEffects,
    FeaturesEffects,
    MiCommandsEffects,
    OcpSmart,
}

impl LogKind {
    /// Whether a controller of this configuration has it.
    fn is_offered(self, config: &ControllerConfig) -> bool {
        let mut namespaces = config.namespaces.iter();
        // What some namespaces do not count would be taken for nothing.
        self != Self::OcpSmart || namespaces.all(|namespace| namespace.device.media().is_some())
    }
}

/// The log pages.
const LOGS: &[Row<LogId, LogKind>] = &[
    mandatory_and_advertised(
        LogId::SUPPORTED_LOG_PAGES,
        LogKind::SupportedPages,
        Vs::V2_0,
        LPA_MISCELLANEOUS as u16,
    ),
    mandatory(LogId::ERROR_INFORMATION, LogKind::Error, V1_0),
    mandatory(LogId::SMART, LogKind::Smart, V1_0),
    mandatory(LogId::FIRMWARE_SLOT, LogKind::FirmwareSlot, V1_0),
    // OAES tells of it.
    optional(LogId::CHANGED_NAMESPACES, LogKind::ChangedNamespaces, 0),
    mandatory_and_advertised(
        LogId::COMMANDS_SUPPORTED,
        LogKind::CommandsEffects,
        Vs::V2_0,
        LPA_COMMANDS_EFFECTS as u16,
    ),
    mandatory_and_advertised(
        LogId::FEATURES_SUPPORTED,
        LogKind::FeaturesEffects,
        Vs::V2_0,
        LPA_MISCELLANEOUS as u16,
    ),
    // The LPA bit of the two above offers it too.
    optional(
        LogId::MI_COMMANDS_SUPPORTED,
        LogKind::MiCommandsEffects,
        LPA_MISCELLANEOUS as u16,
    ),
    // Vendor specific: its GUID says what it is.
    optional(LogId::OCP_SMART, LogKind::OcpSmart, 0),
];

/// An Identify structure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum IdentifyKind {
    Namespace,
    Controller,
    ActiveNamespaces,
    NamespaceDescriptors,
    CommandSetNamespace,
    CommandSetController,
    CommandSetActiveNamespaces,
    IndependentNamespace,
    CommandSets,
}

/// The Identify structures.
pub(crate) const IDENTIFY: &[Row<Cns, IdentifyKind>] = &[
    mandatory(Cns::NAMESPACE, IdentifyKind::Namespace, V1_0),
    mandatory(Cns::CONTROLLER, IdentifyKind::Controller, V1_0),
    mandatory(Cns::ACTIVE_NAMESPACES, IdentifyKind::ActiveNamespaces, V1_1),
    mandatory(
        Cns::NAMESPACE_DESCRIPTORS,
        IdentifyKind::NamespaceDescriptors,
        V1_3,
    ),
    // CAP.CSS tells of these three and of 1Ch, and makes them mandatory.
    optional(Cns::CSI_NAMESPACE, IdentifyKind::CommandSetNamespace, 0),
    optional(Cns::CSI_CONTROLLER, IdentifyKind::CommandSetController, 0),
    optional(
        Cns::CSI_ACTIVE_NAMESPACES,
        IdentifyKind::CommandSetActiveNamespaces,
        0,
    ),
    mandatory(
        Cns::INDEPENDENT_NAMESPACE,
        IdentifyKind::IndependentNamespace,
        Vs::V2_0,
    ),
    optional(Cns::IO_COMMAND_SETS, IdentifyKind::CommandSets, 0),
];

/// A feature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FeatureKind {
    Arbitration,
    PowerManagement,
    TemperatureThreshold,
    ErrorRecovery,
    VolatileWriteCache,
    NumberOfQueues,
    InterruptCoalescing,
    InterruptVectorConfig,
    WriteAtomicityNormal,
    AsyncEventConfig,
    Timestamp,
    KeepAliveTimer,
    HostBehavior,
    CommandSetProfile,
}

/// The features.
pub(crate) const FEATURES: &[Row<FeatureId, FeatureKind>] = &[
    mandatory(FeatureId::ARBITRATION, FeatureKind::Arbitration, V1_0),
    mandatory(
        FeatureId::POWER_MANAGEMENT,
        FeatureKind::PowerManagement,
        V1_0,
    ),
    mandatory(
        FeatureId::TEMPERATURE_THRESHOLD,
        FeatureKind::TemperatureThreshold,
        V1_0,
    ),
    mandatory(FeatureId::ERROR_RECOVERY, FeatureKind::ErrorRecovery, V1_0),
    // Mandatory where a volatile write cache is present.
    optional(
        FeatureId::VOLATILE_WRITE_CACHE,
        FeatureKind::VolatileWriteCache,
        0,
    ),
    mandatory(
        FeatureId::NUMBER_OF_QUEUES,
        FeatureKind::NumberOfQueues,
        V1_0,
    ),
    mandatory(
        FeatureId::INTERRUPT_COALESCING,
        FeatureKind::InterruptCoalescing,
        V1_0,
    ),
    mandatory(
        FeatureId::INTERRUPT_VECTOR_CONFIG,
        FeatureKind::InterruptVectorConfig,
        V1_0,
    ),
    mandatory(
        FeatureId::WRITE_ATOMICITY_NORMAL,
        FeatureKind::WriteAtomicityNormal,
        V1_0,
    ),
    mandatory(
        FeatureId::ASYNC_EVENT_CONFIG,
        FeatureKind::AsyncEventConfig,
        V1_0,
    ),
    optional(FeatureId::TIMESTAMP, FeatureKind::Timestamp, ONCS_TIMESTAMP),
    // KAS tells of it.
    optional(FeatureId::KEEP_ALIVE_TIMER, FeatureKind::KeepAliveTimer, 0),
    optional(
        FeatureId::HOST_BEHAVIOR_SUPPORT,
        FeatureKind::HostBehavior,
        0,
    ),
    // Mandatory with CAP.CSS bit 6.
    optional(
        FeatureId::IO_COMMAND_SET_PROFILE,
        FeatureKind::CommandSetProfile,
        0,
    ),
];

/// Capabilities that are of a command's fields and not of a row.
pub(crate) const ONCS_FIELDS: u16 = ONCS_FEATURES_SAVE_SELECT;

fn find<Id: PartialEq + Copy, Kind: Copy>(rows: &[Row<Id, Kind>], id: Id) -> Option<Kind> {
    rows.iter().find(|row| row.id == id).map(|row| row.kind)
}

impl AdminKind {
    /// Whether a controller of this configuration has the command.
    const fn is_offered(self, config: &ControllerConfig) -> bool {
        match self {
            Self::DoorbellBufferConfig => config.offers_shadow_doorbells(),
            _ => true,
        }
    }
}

/// The admin commands of a controller of this configuration.
pub(crate) fn admin(
    config: &ControllerConfig,
) -> impl Iterator<Item = &'static Row<AdminOpcode, AdminKind>> {
    ADMIN.iter().filter(|row| row.kind.is_offered(config))
}

pub(crate) fn admin_kind(opcode: AdminOpcode, config: &ControllerConfig) -> Option<AdminKind> {
    find(ADMIN, opcode).filter(|kind| kind.is_offered(config))
}

/// The log pages of a controller of this configuration.
pub(crate) fn logs(
    config: &ControllerConfig,
) -> impl Iterator<Item = &'static Row<LogId, LogKind>> {
    LOGS.iter().filter(|row| row.kind.is_offered(config))
}

pub(crate) fn log_kind(lid: LogId, config: &ControllerConfig) -> Option<LogKind> {
    find(LOGS, lid).filter(|kind| kind.is_offered(config))
}

pub(crate) fn identify_kind(cns: Cns) -> Option<IdentifyKind> {
    find(IDENTIFY, cns)
}

impl FeatureKind {
    /// Whether a controller of this configuration has it.
    fn is_offered(self, config: &ControllerConfig) -> bool {
        self != Self::VolatileWriteCache || config.cache == CacheMode::Volatile
    }
}

/// The features of a controller of this configuration.
pub(crate) fn features(
    config: &ControllerConfig,
) -> impl Iterator<Item = &'static Row<FeatureId, FeatureKind>> {
    FEATURES.iter().filter(|row| row.kind.is_offered(config))
}

/// A feature that is there with this configuration.
pub(crate) fn feature_kind(config: &ControllerConfig, fid: FeatureId) -> Option<FeatureKind> {
    find(FEATURES, fid).filter(|kind| kind.is_offered(config))
}

/// The kind of an I/O command. The table is small and this is the hot path: it is unrolled into
/// an array by opcode when the program is built.
pub(crate) fn io_kind(opcode: NvmOpcode) -> Option<IoKind> {
    #[expect(
        clippy::indexing_slicing,
        reason = "a u8 into 256 entries, when the program is built"
    )]
    const BY_OPCODE: [Option<IoKind>; 256] = {
        let mut kinds = [None; 256];
        let mut rest: &[Row<NvmOpcode, IoKind>] = IO;
        while let [row, more @ ..] = rest {
            kinds[row.id.0 as usize] = Some(row.kind);
            rest = more;
        }
        kinds
    };
    BY_OPCODE.get(usize::from(opcode.0)).copied().flatten()
}

/// OACS: the optional admin commands that are there (Base 5.1.13.2.1).
pub(crate) fn oacs(config: &ControllerConfig) -> u16 {
    admin(config).fold(0, |bits, row| bits | row.advertised)
}

/// ONCS: the optional I/O commands, features and fields that are there (Base 5.1.13.2.1).
pub(crate) fn oncs() -> u16 {
    let commands = IO.iter().map(|row| row.advertised);
    let features = FEATURES.iter().map(|row| row.advertised);
    commands
        .chain(features)
        .fold(ONCS_FIELDS, |bits, bit| bits | bit)
}

/// FUSES: the fused operations that are there (Base 5.1.13.2.1).
pub(crate) fn fuses() -> u16 {
    FUSED.iter().fold(0, |bits, (.., bit)| bits | bit)
}

/// LPA: the optional log pages that are there; Get Log Page takes offsets and long lengths
/// (Base 5.1.13.2.1).
pub(crate) fn lpa() -> u8 {
    LOGS.iter().fold(LPA_EXTENDED, |bits, row| {
        bits | row.advertised.to_le_bytes()[0]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn once<Id: Ord + Copy + std::fmt::Debug, Kind>(rows: &[Row<Id, Kind>]) {
        assert!(
            rows.windows(2).all(|pair| pair[0].id < pair[1].id),
            "not sorted, or twice"
        );
    }

    #[test]
    fn each_thing_has_one_row_in_order() {
        once(ADMIN);
        once(IO);
        once(LOGS);
        once(IDENTIFY);
        once(FEATURES);
    }

    #[test]
    fn an_optional_command_is_advertised_and_a_mandatory_one_is_not() {
        for row in ADMIN {
            // KAS, which is no bit, tells of Keep Alive.
            let told = row.advertised != 0 || row.id == AdminOpcode::KEEP_ALIVE;
            assert_eq!(row.mandatory.is_none(), told, "{:?}", row.id);
        }
        for row in IO {
            assert_eq!(row.mandatory.is_none(), row.advertised != 0, "{:?}", row.id);
        }
    }

    /// What Base 2.1 3.1.2 and NVM 1.1 ask of every I/O controller, beside I/O commands.
    #[test]
    fn what_2_1_makes_mandatory_is_there() {
        fn asked<Id: Copy + PartialEq + std::fmt::Debug, Kind>(rows: &[Row<Id, Kind>], ids: &[Id]) {
            for id in ids {
                let row = rows.iter().find(|row| row.id == *id);
                let since = row.and_then(|row| row.mandatory);
                assert!(since.is_some_and(|since| since <= Vs::V2_1), "{id:?}");
            }
        }
        asked(
            LOGS,
            &[
                LogId::SUPPORTED_LOG_PAGES,
                LogId::ERROR_INFORMATION,
                LogId::SMART,
                LogId::FIRMWARE_SLOT,
                LogId::COMMANDS_SUPPORTED,
                LogId::FEATURES_SUPPORTED,
            ],
        );
        asked(
            IDENTIFY,
            &[
                Cns::NAMESPACE,
                Cns::CONTROLLER,
                Cns::ACTIVE_NAMESPACES,
                Cns::NAMESPACE_DESCRIPTORS,
                Cns::INDEPENDENT_NAMESPACE,
            ],
        );
        asked(
            FEATURES,
            &[
                FeatureId::ARBITRATION,
                FeatureId::POWER_MANAGEMENT,
                FeatureId::TEMPERATURE_THRESHOLD,
                FeatureId::NUMBER_OF_QUEUES,
                FeatureId::INTERRUPT_VECTOR_CONFIG,
                FeatureId::ASYNC_EVENT_CONFIG,
            ],
        );
    }

    #[test]
    fn the_unrolled_table_is_the_table() {
        for opcode in 0..=u8::MAX {
            let opcode = NvmOpcode(opcode);
            assert_eq!(io_kind(opcode), find(IO, opcode));
        }
    }
}
